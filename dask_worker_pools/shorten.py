"""Python source without what only people and tools read.

Docstrings, comments and the types of parameters and variables are left out. Lines stay where they
are, so that tracebacks tell the line in the user's own file.
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator

Position = tuple[int, int]  # line, counted from 1, and column
Edit = tuple[Position, Position, bytes]  # what stands there instead

_WITH_DOCSTRINGS = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def shortened(source: str, top: str, package: str) -> str:
    """The source of a module, in short.

    Its imports from package `top` become relative, so that this may be called otherwise.

    Parameters
    ----------
    source : str
        The source.
    top : str
        The package that it is part of.
    package : str
        The package inside of `top` that it is in; empty if it is in `top` itself.
    """
    nodes = [*ast.walk(ast.parse(source))]
    lines = source.encode().split(b"\n")
    edits = [*_docstrings(nodes), *_comments(source), *_relative(nodes, top, package)]
    edits += _types(nodes, lines)
    for (first, start), (last, end), new in sorted(edits, reverse=True):
        kept = lines[last - 1][end:]
        lines[first - 1] = lines[first - 1][:start] + new
        lines[first:last] = [b""] * (last - first)
        lines[last - 1] += kept
    return b"\n".join(line.rstrip() for line in lines).decode()


def _span(node: ast.expr | ast.stmt) -> tuple[Position, Position]:
    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    return (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)


def _docstrings(nodes: list[ast.AST]) -> Iterator[Edit]:
    for node in nodes:
        if isinstance(node, _WITH_DOCSTRINGS) and ast.get_docstring(node, clean=False):
            yield *_span(node.body[0]), b'""'


def _comments(source: str) -> Iterator[Edit]:
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            line, column = token.start
            before = len(token.line[:column].encode())
            yield (line, before), (line, before + len(token.string.encode())), b""


def _relative(nodes: list[ast.AST], top: str, package: str) -> Iterator[Edit]:
    dots = b"." * (len(package.split(".")) + 1 if package else 1)
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and not node.level and node.module:
            first, _, rest = node.module.partition(".")
            if first == top:
                line, start = node.lineno, node.col_offset + len("from ")
                yield (line, start), (line, start + len(node.module)), dots + rest.encode()


def _types(nodes: list[ast.AST], lines: list[bytes]) -> Iterator[Edit]:
    """The types of parameters, of what functions return, and of the variables in them."""
    for node in nodes:
        if isinstance(node, ast.arg) and node.annotation is not None:
            after = (node.lineno, node.col_offset + len(node.arg.encode()))
            yield after, _span(node.annotation)[1], b""
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if node.returns is not None:
                start, end = _span(node.returns)
                yield (start[0], lines[start[0] - 1].rindex(b"->", 0, start[1])), end, b""
            yield from _types_of_variables(node)


def _types_of_variables(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[Edit]:
    waiting: list[ast.AST] = [*function.body]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue  # the annotations in a class may matter; functions have their own turn
        if isinstance(node, ast.AnnAssign):
            declared = _span(node.target)[1], _span(node.annotation)[1], b""
            yield declared if node.value is not None else (*_span(node), b"0")
        waiting += ast.iter_child_nodes(node)
