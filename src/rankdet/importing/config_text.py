"""Reader of the configuration that mmdetection writes into its checkpoints: Python text, which is parsed and never run.

It understands what such texts consist of: assignments of literals, ``dict(…)``, names assigned before, ``**name``.
Everything else becomes None.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any


def read_config(text: object) -> dict[str, Any]:
    """Return the values of the top-level names of a configuration; empty if it is no text, or no Python.

    Examples
    --------
    >>> read_config("norm = dict(mean=[1.5, -2], to_rgb=True)\\nmodel = dict(type='A', **norm)\\nx = open('file')")
    {'norm': {'mean': [1.5, -2], 'to_rgb': True}, 'model': {'type': 'A', 'mean': [1.5, -2], 'to_rgb': True}, 'x': None}
    """
    if not isinstance(text, str):
        return {}
    try:
        statements = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    names: dict[str, Any] = {}
    for statement in statements:
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            target = statement.targets[0]
            if isinstance(target, ast.Name):
                names[target.id] = _value(statement.value, names)
    return names


def _value(node: ast.expr, names: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name):
            return names.get(name)
        case ast.List(elts=elements) | ast.Tuple(elts=elements):
            return [_value(element, names) for element in elements]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            value = _value(operand, names)
            return -value if isinstance(value, int | float) else None
        case ast.Dict(keys=keys, values=values):
            return _merged(
                [(key and _value(key, names), _value(value, names)) for key, value in zip(keys, values, strict=True)]
            )
        case ast.Call(func=ast.Name(id="dict"), args=[], keywords=keywords):
            return _merged([(keyword.arg, _value(keyword.value, names)) for keyword in keywords])
    return None


def _merged(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    """Merge pairs of key and value; a pair without a key is ``**value``."""
    fields: dict[Any, Any] = {}
    for key, value in pairs:
        if key is None:
            fields |= value if isinstance(value, dict) else {}
        elif isinstance(key, str | int | float):
            fields[key] = value
    return fields


def found(config: Any, *path: str | int) -> Any:
    """Return the value at a path of a configuration, or None.

    Examples
    --------
    >>> found({"model": {"stages": [{"std": 1}]}}, "model", "stages", 0, "std"), found({}, "model", "std")
    (1, None)
    """
    for part in path:
        if isinstance(config, dict):
            config = config.get(part)
        elif isinstance(config, list) and isinstance(part, int) and part < len(config):
            config = config[part]
        else:
            return None
    return config
