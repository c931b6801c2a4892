"""The source of a function that is to run elsewhere, alone."""

from __future__ import annotations
import __future__

import ast
import builtins
import inspect
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import TYPE_CHECKING, Any

from airflow_bitahub.decorators.run_function import remove_annotations
from airflow_bitahub.exceptions import ConfigurationError

if TYPE_CHECKING:
    import symtable

_KNOWN_EVERYWHERE = {*dir(builtins), "__file__"}


def function_source(function: Callable[..., Any]) -> str:
    """Return a program that defines the function, with the line numbers of the file that it comes from.

    :raises ConfigurationError: it cannot be defined by itself
    """
    name = getattr(function, "__name__", type(function).__name__)
    if problem := _problem(function):
        raise _refused(name, problem)
    try:
        lines, first_line = inspect.getsourcelines(function)
        is_indented = lines[0][:1].isspace()
        tree = ast.parse("".join(["if True:\n", *lines] if is_indented else lines))
    except (OSError, SyntaxError):
        raise _refused(name, "its source cannot be read. Define it in a file, by def") from None
    statement = tree.body[0].body[0] if isinstance(tree.body[0], ast.If) else tree.body[0]
    if not isinstance(statement, ast.FunctionDef) or statement.name != name:
        raise _refused(name, "its source is not found where Python says it is. Has the file changed since?")
    line = statement.lineno - is_indented  # of `def` among `lines`, after the decorators
    has_lazy_annotations = bool(function.__code__.co_flags & __future__.annotations.compiler_flag)
    if outside := sorted(_names_from_outside(statement, has_lazy_annotations)):
        raise _refused(
            name,
            f"it uses {', '.join(outside)}, which would be missing in the job: only the function itself is sent. Write "
            f"imports and helpers inside the function, and pass values as arguments",
        )
    head = ["\n"] * (first_line + line - 2)
    if has_lazy_annotations:
        head[0] = "from __future__ import annotations\n"
    if is_indented:
        head[-1] = "if True:\n"
    return "".join([*head, *lines[line - 1 :]])


def _refused(name: str, problem: str) -> ConfigurationError:
    return ConfigurationError(f"@task.bitahub cannot run {name} in a job: {problem}.")


def _problem(function: Any) -> str:
    """Return why this is no function that could be sent; "" if it may be one."""
    if not isinstance(function, FunctionType):
        return f"it is not a function, but a {type(function).__name__}"
    if function.__name__ == "<lambda>":
        return "it is a lambda. Define a function by def"
    if hasattr(function, "__wrapped__"):
        return "another decorator wraps it, which would be missing in the job. Remove that decorator"
    parent = function.__qualname__.rpartition(".")[0]
    if parent and not parent.endswith("<locals>"):
        return "it is a method. Define a function outside the class"
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        return "it is asynchronous. Define it by def, and call asyncio.run inside it"
    if inspect.isgeneratorfunction(function):
        return "it yields values. Return a list"
    return ""


class _WithoutAnnotations(ast.NodeTransformer):
    """Removes the annotations that Python does not evaluate: those of a function's variables, and all lazy ones."""

    def __init__(self, *, are_lazy: bool) -> None:
        self.are_lazy = are_lazy

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """Remove lazy annotations of a function, and those of its variables."""
        return self._visit_function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        """Do the same for an asynchronous function."""
        return self._visit_function(node)

    def _visit_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.AST:
        if self.are_lazy:
            remove_annotations(node)
        return self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        """Keep the annotations of a class, unless they are lazy."""
        keeps = () if self.are_lazy else (ast.AnnAssign,)
        node.body = [entry if isinstance(entry, keeps) else self.visit(entry) for entry in node.body]
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        """Replace an annotation by what gives the variable the same scope."""
        return ast.Assign([node.target], node.value or ast.Constant(None))


def _names_from_outside(definition: ast.FunctionDef, has_lazy_annotations: bool) -> set[str]:
    """Return the names that a function needs when it is defined and called, and does not define itself."""
    import symtable  # only the parsing of DAGs with such a function needs it

    definition.decorator_list = []
    remove_annotations(definition)  # as the job does
    tree: ast.AST = _WithoutAnnotations(are_lazy=has_lazy_annotations).visit(definition)
    tables = list(_tables(symtable.symtable(ast.unparse(ast.fix_missing_locations(tree)), "function", "exec")))
    symbols = [symbol for table in tables for symbol in table.get_symbols() if _is_global(symbol, table)]
    defined = {symbol.get_name() for symbol in symbols if symbol.is_assigned() or symbol.is_imported()}
    return {symbol.get_name() for symbol in symbols if symbol.is_referenced()} - defined - _KNOWN_EVERYWHERE


def _is_global(symbol: symtable.Symbol, table: symtable.SymbolTable) -> bool:
    return table.get_type() == "module" or symbol.is_global()


def _tables(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    yield table
    for child in table.get_children():
        yield from _tables(child)
