"""Functions of a file by line: a key of a line that stays the same where other functions of the file grow."""

import ast
from dataclasses import dataclass


@dataclass(frozen=True)
class Span:
    """The lines of one function.

    Attributes:
        name: qualified, as `Class.method`.
        first: first line, decorators included.
        last: last line.
        body: first line that runs when it is called.
    """

    name: str
    first: int
    last: int
    body: int


def spans(source: str) -> list[Span]:
    """All functions of a file, inner ones after those around them."""

    def inside(node: ast.AST, around: str) -> list[Span]:
        result = []
        for child in ast.iter_child_nodes(node):
            name = around
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                name = f"{around}.{child.name}" if around else child.name
                if not isinstance(child, ast.ClassDef):
                    first = min([child.lineno, *(decorator.lineno for decorator in child.decorator_list)])
                    result.append(Span(name, first, child.end_lineno or first, child.body[0].lineno))
            result += inside(child, name)
        return result

    return inside(ast.parse(source), "")


def key_of(line: int, functions: list[Span]) -> tuple[str, int]:
    """Name of the innermost function around a line, and the line counted from its first; module level has no name."""
    around = [span for span in functions if span.first <= line <= span.last]
    return (around[-1].name, line - around[-1].first) if around else ("", line)


def statements_around(source: str, line: int) -> list[tuple[int, int]]:
    """First and last lines of the simple statements around a line, or of a compound one's head, the smallest first."""
    result = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.stmt):
            body = getattr(node, "body", None)
            last = max(node.lineno, body[0].lineno - 1) if body else node.end_lineno or node.lineno
            if node.lineno <= line <= last:
                result.append((node.lineno, last))
    return sorted(result, key=lambda lines: lines[1] - lines[0])
