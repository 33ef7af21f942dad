"""The source of functions with all that they need, so that it can stand in a file of its own without this package."""

import ast
import importlib
import inspect
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import ModuleType

_PACKAGE = __name__.partition(".")[0]


@dataclass(slots=True)
class Bundle:
    """Sources of definitions, each after those that it reads, and the imports that they need."""

    imports: set[str] = field(default_factory=set)
    definitions: dict[str, str] = field(default_factory=dict)
    _modules: dict[str, "_Module"] = field(default_factory=dict)

    def add(self, definition: object) -> str:
        """Take in a function or class of this package; returns the name by which the file knows it."""
        name = str(getattr(definition, "__name__", ""))
        self._take(str(getattr(definition, "__module__", "")), name)
        return name

    @property
    def names(self) -> set[str]:
        """Names that the file has at its top: definitions and imported modules and names."""
        return {*self.definitions, *(line.split()[-1].rpartition(".")[2] for line in self.imports)}

    def text(self) -> str:
        """Return the definitions, two blank lines before each function and class."""
        parts = []
        for source in self.definitions.values():
            is_block = source.startswith(("def ", "class ", "@"))
            parts.append(f"\n\n{source}\n\n" if is_block else f"{source}\n")
        return "".join(parts).strip("\n").replace("\n\n\n\n\n", "\n\n\n")

    def _take(self, module_name: str, name: str) -> None:
        module = self._modules.get(module_name)
        if module is None:
            module = self._modules[module_name] = _Module.read(importlib.import_module(module_name))
        statement = module.statements.get(name)
        if statement is None:
            return  # a builtin, or a local name
        if isinstance(statement, ast.Import | ast.ImportFrom):
            self._import(statement, name)
            return
        source = module.source(statement)
        if name in self.definitions:
            if self.definitions[name] != source:
                raise ValueError(f"{name} of {module_name} is not the {name} of another module; rename one of them")
            return
        if name in module.begun:
            return  # refers to itself, or two to each other
        module.begun.add(name)
        for part in ast.walk(statement):
            if isinstance(part, ast.Name) and part.id != name:
                self._take(module_name, part.id)
        self.definitions[name] = source

    def _import(self, statement: ast.Import | ast.ImportFrom, name: str) -> None:
        alias = next(item for item in statement.names if (item.asname or item.name.partition(".")[0]) == name)
        if isinstance(statement, ast.ImportFrom) and (statement.module or "").partition(".")[0] == _PACKAGE:
            self._take(statement.module or "", alias.name)
            return
        if isinstance(statement, ast.ImportFrom):
            self.imports.add(ast.unparse(ast.ImportFrom(statement.module, [alias], statement.level)))
        else:
            self.imports.add(ast.unparse(ast.Import([alias])))


@dataclass(slots=True)
class _Module:
    """A module's text, and the statements at its top by the names that they bind."""

    lines: list[str]
    statements: dict[str, ast.stmt]
    begun: set[str] = field(default_factory=set)

    @staticmethod
    def read(module: ModuleType) -> "_Module":
        text = inspect.getsource(module)
        statements: dict[str, ast.stmt] = {}
        for statement in ast.parse(text).body:
            for name in _bound(statement):
                statements[name] = statement
        return _Module(text.splitlines(), statements)

    def source(self, statement: ast.stmt) -> str:
        decorators = getattr(statement, "decorator_list", [])
        first = min([statement.lineno, *(item.lineno for item in decorators)])
        return "\n".join(self.lines[first - 1 : statement.end_lineno])


def _bound(statement: ast.stmt) -> Iterable[str]:
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return [statement.name]
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return [item.asname or item.name.partition(".")[0] for item in statement.names]
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        return [statement.target.id]
    if isinstance(statement, ast.Assign):
        return [target.id for target in statement.targets if isinstance(target, ast.Name)]
    return []


def is_ours(definition: object) -> bool:
    """Say whether a function or class is defined in this package, at the top of a module."""
    module, name = getattr(definition, "__module__", None) or "", getattr(definition, "__name__", "")
    return module.partition(".")[0] == _PACKAGE and getattr(sys.modules.get(module), name, None) is definition
