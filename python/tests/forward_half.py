"""The forward half of FLA's own tests: with it fused_recurrent_gla, whose gradients stay with FLA, is tested too.

    python forward_half.py flash-linear-attention/tests/ops/test_gla.py > tests/ops/test_gla_forward.py
    GLA_TUNE_PATCH_FLA=1 pytest tests/ops/test_gla_forward.py

Leaves out what asks for gradients and what compares them; everything else stays as it is.
"""

import ast
import sys
from pathlib import Path


def _mentions(node: ast.AST, *attributes: str) -> bool:
    return any(isinstance(part, ast.Attribute) and part.attr in attributes for part in ast.walk(node))


def _compares_a_gradient(node: ast.AST) -> bool:
    """assert_close('dq', ...)"""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Call)
        and getattr(node.value.func, "id", "") == "assert_close"
        and str(getattr(node.value.args[0], "value", "")).startswith("d")
    )


class _ForwardHalf(ast.NodeTransformer):
    def visit_Expr(self, node):
        return None if _mentions(node, "backward") or _compares_a_gradient(node) else self.generic_visit(node)

    def visit_Assign(self, node):
        return None if _mentions(node.value, "grad") else self.generic_visit(node)

    def visit_Call(self, node):
        """x.requires_grad_() -> x"""
        node = self.generic_visit(node)
        return node.func.value if isinstance(node.func, ast.Attribute) and node.func.attr == "requires_grad_" else node


def forward_half(source: str) -> str:
    """A test module's source without its gradients."""
    return ast.unparse(ast.fix_missing_locations(_ForwardHalf().visit(ast.parse(source))))


if __name__ == "__main__":
    print(forward_half(Path(sys.argv[1]).read_text()))
