"""The command line."""

from __future__ import annotations

import argparse
from pathlib import Path

from .cases import DEFAULT_DTYPE, DEFAULT_GATES
from .errors import UsageError
from .inputs import DTYPES, GATES
from .lengths import parse_lengths
from .modes import MODES
from .operations import OPERATIONS
from .shapes import parse_shape

_EXAMPLES = """\
examples:
  python -m gla_tune.bench --quick
  python -m gla_tune.bench --json 2026-11-25-nvidia-h100-side-by-side.json
  python -m gla_tune.bench --op chunk_forward --mode all --gates logsigmoid --gates '10*logsigmoid'
  python -m gla_tune.bench --shape B1_T8192_H96_D128 --shape B4_T2048_H8_G4_K128_V128
  python -m gla_tune.bench --op chunk_forward --lengths loguniform:64:16:4096
  python -m gla_tune.bench --op chunk_forward --shape B1_T1_H4_D128 --lengths onelong:64:256:16384
  python -m gla_tune.bench --plot 2026-11-25-nvidia-h100-side-by-side.json

exit codes: 0 all rows measured, 1 a row failed, 2 the command cannot do what it was asked for, 130 interrupted
"""


def parse_options(arguments: list[str]) -> argparse.Namespace:
    """Exits with 2 for what cannot be understood."""
    parser = argparse.ArgumentParser(
        prog="python -m gla_tune.bench",
        description="Times gla_tune and flash-linear-attention (FLA) side by side on this machine's GPU, and compares "
        "both with an fp64 reference. Without FLA, gla_tune is measured alone.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_argument_group("what to measure")
    what.add_argument("--op", action="append", choices=[op.name for op in OPERATIONS], help="repeatable (default: all)")
    what.add_argument(
        "--shape",
        action="append",
        type=_checked(parse_shape),
        help="such as B1_T8192_H96_K128_V128; D for K and V, G query heads per head; repeatable; without --op the "
        "operation follows from T (default: the shapes of --list)",
    )
    what.add_argument(
        "--mode",
        action="append",
        choices=[*(mode.name for mode in MODES), "all"],
        help="repeatable (default: plain, of the recurrent operations states)",
    )
    what.add_argument(
        "--lengths",
        type=_checked(parse_lengths),
        metavar="KIND:N:A:B",
        help="packed mode: instead of B equal sequences, by --seed, loguniform: N of lengths drawn from A to B; "
        "onelong: N of A tokens, and somewhere among them one of B",
    )
    what.add_argument(
        "--dtype", action="append", choices=list(DTYPES), help=f"of q, k, v, g; repeatable (default: {DEFAULT_DTYPE})"
    )
    what.add_argument(
        "--gates",
        action="append",
        choices=list(GATES),
        help="of normal numbers; 5%%-resets: logsigmoid, one in twenty -inf; repeatable "
        f"(default: {DEFAULT_GATES.replace('%', '%%')})",
    )
    what.add_argument("--no-fla", action="store_true", help="measure gla_tune alone")
    what.add_argument("--quick", action="store_true", help="one shape of each operation, a fifth of the time")

    how = parser.add_argument_group("how")
    how.add_argument("--seconds", type=_positive, default=2.0, help="to spend timing a row (default: %(default)s)")
    how.add_argument(
        "--time-limit",
        type=_positive,
        default=600.0,
        metavar="SECONDS",
        help="for one stage of a row, such as FLA's first call with its autotuning; when FLA exceeds it, the row is "
        "measured without FLA (default: %(default)s)",
    )
    how.add_argument(
        "--compile-fla",
        action="store_true",
        help="first compile what FLA's tuning tries, on all cores: its first calls take a fraction of the time then",
    )
    how.add_argument(
        "--one-process",
        action="store_true",
        help="all rows in one process, not one for each shape: 15 s a shape less, and the first row's first calls only",
    )
    how.add_argument("--seed", type=int, default=7, help="of the inputs and lengths (default: %(default)s)")

    output = parser.add_argument_group("output")
    output.add_argument("--json", type=Path, metavar="FILE", help="write the rows; until all are there: FILE.partial")
    output.add_argument("--resume", action="store_true", help="skip the rows that FILE.partial or FILE already has")
    output.add_argument("--list", action="store_true", help="print operations, shapes and modes, and exit")
    output.add_argument("--plot", type=Path, metavar="FILE", help="draw FILE's rows into a PNG and an SVG, and exit")
    options = parser.parse_args(arguments)
    if options.resume and not options.json:
        parser.error("--resume goes with --json FILE")
    return options


def _checked(parse):
    """argparse prints what it is told only for its own kind of error."""

    def parse_or_say(text: str):
        try:
            return parse(text)
        except UsageError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return parse_or_say


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value
