"""Rewrites jsonargparse's error messages: they name the argument, its value, the expected type and similar options."""

import difflib
import re
from collections.abc import Iterable

TYPES = {
    "<class 'int'>": "a whole number",
    "<class 'float'>": "a number",
    "<class 'bool'>": "true or false",
    "<class 'str'>": "text",
    "<class 'NoneType'>": "null",
    "<class 'list'>": "a list",
    "<class 'collections.abc.Iterable'>": "a list",
}
ALIASES = {  # other projects' names
    "bptt": "window",
    "bs": "batch_size",
    "checkpoint": "ckpt_path",
    "clip": "gradient_clip_val",
    "epochs": "max_epochs",
    "file": "path",
    "gpus": "devices",
    "layers": "num_layers",
    "lr": "learning_rate",
    "n_layers": "num_layers",
    "output": "default_root_dir",
    "resume": "ckpt_path",
    "seed": "seed_everything",
    "seq_len": "window",
    "steps": "max_steps",
    "wd": "weight_decay",
}


def rewritten(message: str) -> str:
    """A message of jsonargparse without the types that it has tried; any other message as it is."""
    key = re.match(r'Parser key "([^"]+)":?\s*', message)
    name, body = (f"--{key[1]}", message[key.end() :]) if key else ("", message)
    if problems := re.findall(
        r"Problem with given class_path '([^']+)':\s*(.+?)\s*(?=\n *- |\n *Given|\Z)", body, re.S
    ):
        path, text = problems[0]
        return ": ".join([name] * bool(name) + [path.split(".")[-1], rewritten(text)])
    one = re.fullmatch(r"Expected a (.+)\. Got value: (.*)", body, re.S)
    several = re.search(r"Errors:\n(.+)\n *Given value type: .+\n *Given value: (.*)", body, re.S)
    if one:
        return f"{name or 'the value'} is {one[2]}: expected {expected([one[1]])}"
    if several and name:
        kinds = re.findall(r"- Expected an? (.+)", several[1])
        return f"{name} is {several[2].strip()}: expected {expected(kinds)}"
    return message


def expected(kinds: Iterable[str]) -> str:
    """Types, as a reader would name them."""
    words: list[str] = []
    for kind in kinds:
        choices = re.fullmatch(r"typing\.Literal\[(.+)\]", kind)
        if kind.startswith("dot import path string"):
            words.append("the name of a class")
        else:
            words += choices[1].replace("'", "").split(", ") if choices else [TYPES.get(kind, kind)]
    return " or ".join(dict.fromkeys(words))


def with_suggestion(message: str, options: Iterable[str]) -> str:
    """The message about an option that does not exist, with those of `options` (without dashes) that are like it."""
    line = re.match(r"unrecognized arguments: --?([^\s=]+)", message)
    group = re.match(r"Group '([^']+)' does not accept option '([^']+)'", message)
    single = re.match(r"Option '([^']+)' is not accepted", message)
    name = line[1] if line else f"{group[1]}.{group[2]}" if group else single[1] if single else None
    if name is None:
        return message
    others = [option for option in options if option != name]  # another subcommand may have this one
    found = similar(name.replace("-", "_"), others)
    dashes = "--" if line else ""
    meant = f"did you mean {' or '.join(dashes + option for option in found)}?" if found else "see --help"
    return f"there is no option {dashes}{name}: {meant}"


def similar(name: str, options: list[str]) -> list[str]:
    """At most two of the options: with the same last part, or spelled like it."""
    part, last = name.rpartition(".")[0], name.rpartition(".")[2]
    last = ALIASES.get(last, last)
    same = [option for option in options if option.rpartition(".")[2] == last]
    if not same:
        lasts = {option.rpartition(".")[2] for option in options}
        near = difflib.get_close_matches(last, sorted(lasts), n=1, cutoff=0.6)
        same = [option for option in options if option.rpartition(".")[2] in near]
    same.sort(key=lambda option: not option.startswith(f"{part}."))
    return same[:2] or difflib.get_close_matches(name, options, n=1, cutoff=0.6)
