"""gla_tune beside flash-linear-attention (FLA) on this machine's GPU: `python -m gla_tune.bench --help`.

Where to start reading: cli.py is the command, runner.py goes through the rows, measure.py measures one of them.
"""
