"""Constants at the top of the script that it lets the command line override (nanoGPT's configurator).

The script, or a file that it executes, goes through sys.argv and assigns to `globals()`:

    batch_size = 12
    exec(open("configurator.py").read())  # --batch_size=8

Such files accept a value only if its type is the default's, so a constant's type is that of its value.
"""

import ast
import os
import sys

from . import records

_LARGEST = 1 << 20  # bytes of a source file that is looked through


def tell(options):
    """Tells the constants once training is about to begin: by then they are what they will be."""
    main = sys.modules.get("__main__")
    path = getattr(main, "__file__", None)
    tree = _parse(path) if path else None
    if tree is None:
        return
    names = overridable(tree, os.path.dirname(path))
    words = list(sys.argv[1:])
    span = (0, len(words))
    found = [
        _option(name, main.__dict__[name], span)
        for name in names
        if type(main.__dict__.get(name)) in (bool, int, float, str)
    ]
    if found:
        options.offer("constants", words, found)


def _option(name, value, span):
    flag = "--" + name
    writing = {"write": [flag + "={value}"]}
    if isinstance(value, bool):
        writing = {"on": [flag + "=True"], "off": [flag + "=False"]}
    return records.option(name, [flag], records.kind_of(value), value, span, **writing)


def overridable(tree, folder):
    """Names assigned at the top level before the command line is looked at; none if it never is."""
    names = []
    for statement in tree.body:
        if _reads_command_line(statement, folder):
            return [name for name in names if not name.startswith("_")]
        targets = []
        if isinstance(statement, ast.Assign):
            targets = statement.targets
        elif isinstance(statement, ast.AnnAssign):
            targets = [statement.target]
        names += [t.id for t in targets if isinstance(t, ast.Name) and t.id not in names]
    return []


def _reads_command_line(statement, folder):
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return False
    if assigns_globals(statement):
        return True
    return any(
        assigns_globals(tree)
        for call in ast.walk(statement)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "exec"
        for tree in map(_parse, _files(call, folder))
        if tree is not None
    )


def _files(call, folder):
    """Files named in the call, seen from where the script runs or lies."""
    for node in ast.walk(call):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.endswith(".py"):
            yield node.value
            yield os.path.join(folder, node.value)


def assigns_globals(tree):
    """Whether this code reads sys.argv, takes `key=value` apart and assigns to `globals()`."""
    reads = splits = assigns = False
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr == "argv":
            reads = True
        elif isinstance(node, ast.Constant) and node.value == "=":
            splits = True
        elif isinstance(node, (ast.Subscript, ast.Attribute)):
            assigns = assigns or _assigns_to_globals(node)
    return reads and splits and assigns


def _assigns_to_globals(node):
    """`globals()[key] = ...` or `globals().update(...)`."""
    call = node.value
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.func.id != "globals":
        return False
    return isinstance(node.ctx, ast.Store) if isinstance(node, ast.Subscript) else node.attr == "update"


def _parse(path):
    try:
        if os.path.getsize(path) > _LARGEST:
            return None
        with open(path, encoding="utf-8") as file:
            return ast.parse(file.read())
    except (OSError, SyntaxError, ValueError):
        return None  # not Python, or not there: nothing to find in it
