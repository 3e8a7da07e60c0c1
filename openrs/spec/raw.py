"""YAML files as raw values, before a model reads them: bounded, anchored to where they stand, laid over each other."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Any

import yaml

from openrs.errors import BadInput
from openrs.spec.paths import expand, shortened

MAX_BYTES = 1_000_000
MAX_NODES = 20_000
MAX_DEPTH = 50
_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises BadInput for what cannot be read, is not YAML, is not a mapping, or is made to be huge (aliases of aliases).
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BadInput(f"{path}: larger than {MAX_BYTES} bytes, that is no experiment")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: cannot be read ({getattr(error, 'strerror', None) or 'it is not UTF-8'})") from None
    content = parse_yaml(text, str(path))
    if content is None:
        raise BadInput(f"{path}: the file is empty; an experiment is a mapping of keys to values")
    if not isinstance(content, dict):
        raise BadInput(f"{path}: an experiment is a mapping of keys to values, this is {kind_of(content)}")
    return {str(key): value for key, value in content.items()}


def existing_file(name: str, directory: Path, what: str) -> Path:
    """The file of that name as seen from `directory`, `~` expanded. Raises BadInput, which calls it `what`."""
    shown = f"{what} {shortened(name)!r}"
    try:
        path = (directory / expand(name)).resolve()
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise BadInput(f"{shown} does not exist") from None
    except OSError as error:
        raise BadInput(f"{shown} cannot be read ({error.strerror})") from None
    except (ValueError, RuntimeError) as error:  # no such home directory, a NUL, a circle of links
        raise BadInput(f"{shown}: {error}") from None
    if not stat.S_ISREG(mode):
        raise BadInput(
            f"{shown} is {'a directory; name a YAML file in it' if stat.S_ISDIR(mode) else 'no regular file'}"
        )
    return path


def kind_of(value: Any) -> str:
    """What a YAML value is, for people."""
    kinds = {
        dict: "a mapping",
        list: "a list",
        str: "a text",
        bool: "true or false",
        int: "a number",
        float: "a number",
    }
    return "nothing" if value is None else kinds.get(type(value), f"a {type(value).__name__}")


def parse_yaml(text: str, where: str) -> Any:
    """The value of one YAML document. Raises BadInput for what is not YAML or is made to hurt its reader."""
    odd = yaml.reader.Reader.NON_PRINTABLE.search(text)
    if odd is not None:
        number = text.count("\n", 0, odd.start()) + 1
        raise BadInput(
            f"{where}, line {number}: not valid YAML (the character {odd[0]!r} may not stand there); take it out"
        )
    try:
        _refuse_depth(text, where)
        loader = _SafeLoader(text)
        try:
            node = loader.get_single_node()
            _refuse_bomb(node, where)
            _refuse_surprises(node)
            return loader.construct_document(node) if node is not None else None
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise BadInput(f"{where}{line}: not valid YAML ({error.problem})") from None
    except (yaml.YAMLError, ValueError, RecursionError, TypeError) as error:
        raise BadInput(f"{where}: not valid YAML ({type(error).__name__})") from None


def _refuse_depth(text: str, where: str) -> None:
    """Libyaml composes nested nodes by recursion in C, where too many of them end the process: count events first."""
    depth = 0
    for event in yaml.parse(text, Loader=_SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise BadInput(f"{where}: nested more than {MAX_DEPTH} levels deep")


def _refuse_bomb(root: yaml.Node | None, where: str) -> None:
    """Aliases make a few lines stand for billions: count what the document would be when written out."""
    sizes: dict[int, int] = {}

    def size(node: yaml.Node) -> int:
        if id(node) not in sizes:
            sizes[id(node)] = MAX_NODES  # an alias that holds itself counts as endless
            children: list[yaml.Node] = []
            if isinstance(node, yaml.MappingNode):
                children = [part for pair in node.value for part in pair]
            elif isinstance(node, yaml.SequenceNode):
                children = node.value
            sizes[id(node)] = min(MAX_NODES, 1 + sum(size(child) for child in children))
        return sizes[id(node)]

    if root is not None and size(root) >= MAX_NODES:
        raise BadInput(f"{where}: its aliases expand to more than {MAX_NODES} values")


_SIXTIES = re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")
_OCTAL = re.compile(r"[-+]?0[0-7_]+")
_LONGEST_NUMBER = 400
"""Characters. The largest float has 309 digits."""


def _refuse_surprises(root: yaml.Node | None) -> None:
    """What YAML 1.1 reads as something else than people write, and keys that are no texts or written twice."""
    waiting = [root] if root is not None else []
    known: set[int] = set()
    while waiting:
        node = waiting.pop()
        if id(node) in known:
            continue
        known.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
        elif isinstance(node, yaml.ScalarNode):
            _refuse_number(node)
        elif isinstance(node, yaml.MappingNode):
            seen: set[tuple[str, str]] = set()
            for key, value in node.value:
                waiting += [key, value]
                if isinstance(key, yaml.ScalarNode):
                    if key.tag in _READ_AS:
                        raise _surprise(key, f"the key {key.value} is read as {_READ_AS[key.tag]}; write it in quotes")
                    if (key.tag, key.value) in seen:
                        raise _surprise(key, f"the key {key.value!r} stands there twice")
                    seen.add((key.tag, key.value))


_READ_AS = {
    f"tag:yaml.org,2002:{tag}": words
    for tag, words in (("bool", "true or false"), ("int", "a number"), ("float", "a number"), ("null", "nothing"))
}


def _refuse_number(node: yaml.ScalarNode) -> None:
    if _READ_AS.get(node.tag) != "a number":
        return
    if len(node.value) > _LONGEST_NUMBER:
        raise _surprise(node, f"a number of {len(node.value)} characters; write a shorter one, or a text in quotes")
    for form, read in ((_SIXTIES, "a number to the base of 60"), (_OCTAL, "an octal number")):
        if form.fullmatch(node.value):
            raise _surprise(node, f"{node.value} is read as {read}; write it in decimal, or in quotes as a text")


def _surprise(node: yaml.Node, problem: str) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def anchor_paths(value: Any, directory: Path, where: str) -> Any:
    """Makes every relative `path:` absolute, as seen from the file (or shell) that names it."""
    if isinstance(value, dict):
        return {
            key: _anchored(item, directory, where)
            if key == "path" and isinstance(item, str)
            else anchor_paths(item, directory, where)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [anchor_paths(item, directory, where) for item in value]
    return value


def _anchored(path: str, directory: Path, where: str) -> str:
    if path.startswith("openrs:"):
        return path
    try:
        return os.path.normpath(directory / expand(path))
    except ValueError as error:
        raise BadInput(f"{where}: path {shortened(path)!r}: {error}") from None


def merge(base: Any, change: Any) -> Any:
    """`change` laid over `base`: mappings key by key, everything else whole; a mapping of another `type` is a new one."""
    if not isinstance(base, dict) or not isinstance(change, dict):
        return change
    if "type" in change and change["type"] != base.get("type"):
        return change
    return base | {key: merge(base.get(key), value) for key, value in change.items()}
