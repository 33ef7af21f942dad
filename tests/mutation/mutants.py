"""Small changes to a module, one at a time: what a slip of the hand would make of it."""

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_COMPARE: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_BINARY: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Add,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}


@dataclass(frozen=True, slots=True)
class Mutant:
    """One changed module. `where` names the change and stays the same while the function around it does."""

    path: str
    line: int
    where: str
    source: str


def mutants(path: str, source: str) -> Iterator[Mutant]:
    """Yield every mutant of a module."""
    count = sum(1 for _ in _sites(ast.parse(source)))
    for index in range(count):
        tree = ast.parse(source)
        scope, node, what, change = list(_sites(tree))[index]
        line = getattr(node, "lineno", 0)
        before = ast.unparse(node)
        change()
        ast.fix_missing_locations(tree)
        yield Mutant(path, line, f"{path}:{scope}: {what}: {before.splitlines()[0][:100]}", ast.unparse(tree))


Site = tuple[str, ast.AST, str, Callable[[], None]]


def _sites(tree: ast.Module) -> Iterator[Site]:
    yield from _walk(tree, "module")


def _walk(node: ast.AST, scope: str) -> Iterator[Site]:
    for child in ast.iter_child_nodes(node):
        inner = f"{scope}.{child.name}" if isinstance(child, ast.FunctionDef | ast.ClassDef) else scope
        if inner != "module" or not isinstance(child, ast.Import | ast.ImportFrom | ast.AnnAssign):
            yield from _changes(child, inner)
            yield from _walk(child, inner)


def _changes(node: ast.AST, scope: str) -> Iterator[Site]:
    """Yield the changes of one node; error messages, logs and annotations are left alone."""
    if scope == "module" or isinstance(node, ast.Raise):
        return
    if isinstance(node, ast.Compare) and type(node.ops[0]) in _COMPARE:
        yield scope, node, "comparison", lambda: node.ops.__setitem__(0, _COMPARE[type(node.ops[0])]())
    elif isinstance(node, ast.BoolOp):
        other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield scope, node, "and/or", lambda: setattr(node, "op", other)
    elif isinstance(node, ast.BinOp) and type(node.op) in _BINARY and not _is_text(node):
        yield scope, node, "operator", lambda: setattr(node, "op", _BINARY[type(node.op)]())
    elif isinstance(node, ast.If | ast.While | ast.IfExp):
        yield scope, node.test, "condition negated", lambda: setattr(node, "test", _not(node.test))
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield scope, node, "constant", lambda: setattr(node, "value", not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int):
        yield scope, node, "constant", lambda: setattr(node, "value", node.value + 1)
    elif isinstance(node, ast.FunctionDef):
        yield from _statements(node, scope)


def _statements(node: ast.FunctionDef, scope: str) -> Iterator[Site]:
    """Yield the removal of each statement that is there for what it does: calls, assignments to members, returns."""
    for parent in ast.walk(node):
        for name in ("body", "orelse"):
            block = getattr(parent, name, None)
            if not isinstance(block, list) or (parent is not node and isinstance(parent, ast.FunctionDef)):
                continue
            for place, statement in enumerate(block):
                if _does(statement) and not _logs(statement):
                    yield scope, statement, "removed", lambda b=block, p=place: b.__setitem__(p, ast.Pass())  # type: ignore[misc]


def _does(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Call | ast.Yield | ast.YieldFrom)
    if isinstance(statement, ast.Assign):
        return all(isinstance(target, ast.Attribute | ast.Subscript) for target in statement.targets)
    return isinstance(statement, ast.AugAssign | ast.Delete | ast.Continue | ast.Break)


def _logs(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and ast.unparse(statement).startswith("_log.")


def _is_text(node: ast.BinOp) -> bool:
    return any(isinstance(part, ast.JoinedStr | ast.List | ast.Constant) for part in (node.left, node.right)) and not (
        isinstance(node.right, ast.Constant) and isinstance(node.right.value, int | float)
    )


def _not(test: ast.expr) -> ast.expr:
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return test.operand
    return ast.UnaryOp(ast.Not(), test)
