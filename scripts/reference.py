"""
Write docs/reference.md from the docstrings of everything public: ``python scripts/reference.py``.

Reads source text and imports nothing, so the page is the same whatever is installed. With
``--check`` nothing is written, and the exit status says whether the page is up to date.
"""

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "fastapi_httpx_pool"
PAGE = ROOT / "docs" / "reference.md"

# Beside what the package's door exports: name of the module, name in it.
EXTRA = (
    ("transports.httpx2", "PoolTransport"),
    ("testing", "Upstream"),
    ("testing", "Route"),
    ("testing", "Reply"),
    ("testing", "UpstreamRequest"),
    ("testing", "UpstreamConnection"),
    ("testing", "client_override"),
    ("testing", "lifespan_client"),
    ("testing", "forbid_leaks"),
    ("testing", "LeaksFound"),
    ("testing", "forbid_network"),
    ("testing", "NetworkForbidden"),
    ("testing", "NetworkUsed"),
)

INTRODUCTION = """\
# Reference

Everything that is public, from its own docstrings. Import it from `fastapi_httpx_pool`, if no other
module is named. `python scripts/reference.py` writes this page; do not edit it.
"""

WIDTH = 100
SECTIONS = re.compile(r"(Args|Raises|Returns|Yields):")
ITEM = re.compile(r"    ([\w.]+): (.*)")

Documented = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Module(NamedTuple):
    """One source file."""

    body: list[ast.stmt]
    assigned: dict[str, ast.expr]
    """The values of its names, and of those that it imports from beside it."""


@cache
def read(path: Path) -> Module:
    """Parse a file."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    assigned: dict[str, ast.expr] = {}
    for node in body:
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module:
            assigned |= read(path_of(node.module, path.parent)).assigned
        elif isinstance(node, ast.Assign):
            assigned[ast.unparse(node.targets[0])] = node.value
    return Module(body, assigned)


def path_of(module: str, folder: Path = PACKAGE) -> Path:
    """Return the file of a module in a folder of the package."""
    base = folder.joinpath(*module.split("."))
    return base / "__init__.py" if base.is_dir() else base.with_suffix(".py")


def exports() -> Iterator[tuple[str, str, str]]:
    """Give title, module and name of everything public, in order."""
    homes = {name: module for module, name in imported(read(PACKAGE / "__init__.py"), "")}
    for name in sorted(homes, key=str.lower):
        yield name, home_of(homes[name], name), name
    for module, name in EXTRA:
        yield f"{module}.{name}", home_of(module, name), name


def imported(source: Module, package: str) -> Iterator[tuple[str, str]]:
    """Give module and name of everything that a file imports from beside it."""
    # The package's door has its imports in an ``if``.
    inner = [node for branch in source.body if isinstance(branch, ast.If) for node in branch.body]
    for node in [*source.body, *inner]:
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            for alias in node.names:
                yield ".".join(filter(None, (package, node.module))), alias.name


def home_of(module: str, name: str) -> str:
    """Follow a door to the module that defines the name."""
    if path_of(module).name == "__init__.py":
        for home, found in imported(read(path_of(module)), module):
            if found == name:
                return home
    return module


def entry(title: str, module: str, name: str) -> str:
    """Return one name's part of the page."""
    source = read(path_of(module))
    for position, node in enumerate(source.body):
        if isinstance(node, Documented) and node.name == name and not is_overload(node):
            return described(title, node, source)
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            parts = (f"## {title}", block(f"{name} = {ast.unparse(node.value)}"), text_after(source.body, position))
            return "\n\n".join(parts)
    raise LookupError(f"{module} does not define {name}")


def described(title: str, node: Documented, source: Module) -> str:
    """Return a function's or a class's part of the page."""
    parts = [f"## {title}"]
    if isinstance(node, ast.ClassDef):
        init = next(
            (member for member in node.body if isinstance(member, Function) and member.name == "__init__"), None
        )
        shown = init if init is not None and ast.get_docstring(init) else None
        internal = {name for _, name in imported(source, "")} - {name for _, _, name in exports()}
        shown_bases = [base for base in map(ast.unparse, node.bases) if base not in internal and base[0] != "_"]
        bases = ", ".join(shown_bases)
        plain_head = f"{node.name}({bases})" if bases else node.name
        parts.append(block("class " + (plain_head if shown is None else signature(shown, source, node.name))))
        parts.append(prose(ast.get_docstring(node)))
        if shown is not None:
            parts.append(prose(ast.get_docstring(shown)))
        parts += [fields(node, source), *methods(node, source)]
    else:
        parts += [signatures(node, source.body, source), prose(ast.get_docstring(node))]
    return "\n\n".join(part for part in parts if part)


def methods(node: ast.ClassDef, source: Module) -> Iterator[str]:
    """Give the parts of a class's documented methods and properties."""
    for member in node.body:
        if not isinstance(member, Function) or is_overload(member) or member.name == "__init__":
            continue
        docstring = ast.get_docstring(member)
        hidden = member.name.startswith("_") and not member.name.startswith("__")
        if docstring and not hidden and not is_validator(member):
            decorators = {ast.unparse(decorator) for decorator in member.decorator_list}
            if "property" in decorators:
                shown = block(f"{member.name}: {ast.unparse(member.returns)}" if member.returns else member.name)
            else:
                shown = signatures(member, node.body, source)
            yield f"### {node.name}.{member.name}\n\n{shown}\n\n{prose(docstring)}"


def signatures(node: Function, beside: list[ast.stmt], source: Module) -> str:
    """Return a function's signature, or those of its overloads."""
    overloads = [
        member for member in beside if isinstance(member, Function) and member.name == node.name and is_overload(member)
    ]
    return block("\n".join(signature(member, source) for member in overloads or [node]))


def is_overload(node: Documented) -> bool:
    """Return whether this is for type checkers only."""
    return any(ast.unparse(decorator) == "overload" for decorator in node.decorator_list)


def is_validator(node: Function) -> bool:
    """Return whether pydantic calls this, and nobody else."""
    return node.name == "__repr_args__" or any("validator" in ast.unparse(item) for item in node.decorator_list)


def fields(node: ast.ClassDef, source: Module) -> str:
    """Return a table of a class's fields."""
    rows = [
        (f"`{member.target.id}`", f"`{plain(member.annotation, source)}`", default(member), text_after(node.body, at))
        for at, member in enumerate(node.body)
        if isinstance(member, ast.AnnAssign) and isinstance(member.target, ast.Name)
        if not member.target.id.startswith("_") and "ClassVar" not in ast.unparse(member.annotation)
    ]
    if not rows:
        return ""
    lines = [" | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) for row in rows]
    return "\n".join(("| field | type | default | meaning |", "|---|---|---|---|", *(f"| {line} |" for line in lines)))


def plain(annotation: ast.expr, source: Module) -> str:
    """Return a type without what only pydantic reads."""

    class Plain(ast.NodeTransformer):
        def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
            if ast.unparse(node.value) == "Annotated" and isinstance(node.slice, ast.Tuple):
                found: ast.AST = self.visit(node.slice.elts[0])
                return found
            return node

        def visit_Name(self, node: ast.Name) -> ast.AST:
            value = source.assigned.get(node.id)
            found: ast.AST = self.visit(value) if isinstance(value, ast.Subscript) else node
            return found

    return ast.unparse(Plain().visit(ast.parse(ast.unparse(annotation), mode="eval"))).replace("'", '"')


def default(field: ast.AnnAssign) -> str:
    """Return a field's default as code."""
    value = field.value
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "Field":
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in value.keywords}
        if "default_factory" in given:
            return "`{}`" if given["default_factory"] == "dict" else f"`{given['default_factory']}()`"
        return f"`{given['default']}`"
    return "" if value is None else f"`{ast.unparse(value)}`".replace("'", '"')


def text_after(body: list[ast.stmt], position: int) -> str:
    """Return the docstring under an assignment."""
    following = body[position + 1] if position + 1 < len(body) else None
    if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
        return inspect.cleandoc(str(following.value.value)).replace("``", "`")
    return ""


def signature(node: Function, source: Module, name: str | None = None) -> str:
    """Return a function's signature; a long one with one argument to a line."""
    arguments = node.args
    first = [*arguments.posonlyargs, *arguments.args]
    missing: list[ast.expr | None] = [None] * (len(first) - len(arguments.defaults))
    shown = [argument(item, value, source) for item, value in zip(first, [*missing, *arguments.defaults], strict=True)]
    if first and first[0].arg in ("self", "cls"):
        del shown[0]
    if arguments.vararg:
        shown.append("*" + argument(arguments.vararg, None, source))
    elif arguments.kwonlyargs:
        shown.append("*")
    shown += [
        argument(item, value, source) for item, value in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    ]
    if arguments.kwarg:
        shown.append("**" + argument(arguments.kwarg, None, source))
    start = ("async " if isinstance(node, ast.AsyncFunctionDef) else "") + (name or node.name)
    end = "" if node.returns is None or name else f" -> {unquoted(node.returns)}"
    line = f"{start}({', '.join(shown)}){end}"
    return line if len(line) <= WIDTH else "\n".join((f"{start}(", *(f"    {item}," for item in shown), f"){end}"))


def argument(node: ast.arg, value: ast.expr | None, source: Module) -> str:
    """Return one argument of a signature."""
    text = node.arg if node.annotation is None else f"{node.arg}: {unquoted(node.annotation)}"
    if value is None:
        return text
    if isinstance(value, ast.Name):
        value = source.assigned.get(value.id, value)
    shown = ast.unparse(value) if isinstance(value, ast.Constant) else "..."
    return text + (" = " if node.annotation else "=") + shown.replace("'", '"')


def unquoted(annotation: ast.expr) -> str:
    """Return an annotation as code, also one that is written as a string."""
    return str(annotation.value) if isinstance(annotation, ast.Constant) else ast.unparse(annotation)


def block(code: str) -> str:
    """Return code as a block that is not an example."""
    return f"```text\n{code}\n```"


def prose(docstring: str | None) -> str:
    """Return a docstring as Markdown: its sections become lists."""
    lines: list[str] = []
    section = ""
    for line in (docstring or "").splitlines():
        heading, item = SECTIONS.fullmatch(line), ITEM.fullmatch(line)
        if heading:
            section = heading[1]
            lines += [f"**{section}**", ""]
        elif section and item and section != "Returns":
            lines.append(f"- `{item[1]}`: {item[2]}")
        elif section:
            lines.append(line.strip() if section == "Returns" or not line.strip() else f"  {line.strip()}")
        else:
            lines.append(line.removesuffix(":") if line.endswith("::") else line)
    return "\n".join(lines).replace("``", "`").strip()


def page() -> str:
    """Return the whole page."""
    return "\n\n".join((INTRODUCTION.strip(), *(entry(*export) for export in exports()))) + "\n"


def main() -> int:
    """Write the page, or check it."""
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(page(), encoding="utf-8")
        return 0
    if PAGE.exists() and PAGE.read_text(encoding="utf-8") == page():
        return 0
    print("docs/reference.md is out of date; run python scripts/reference.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
