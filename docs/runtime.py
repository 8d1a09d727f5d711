"""A griffe extension: the reference shows functions as they are at run time.

`@loss` gives a function its full signature and adds the common arguments to its docstring; griffe
itself reads the function below the decorator. For a loss the extension also adds what the catalogue
knows: links to other losses, the picture of value and gradient, and the tested traits.
"""

import inspect
import pathlib
import re
import textwrap
from typing import Any

import griffe

import jaxloss as jl
from jaxloss.catalogue import LossInfo

PICTURES = pathlib.Path("pictures")  # beside the configuration of the site
NAME = re.compile(r"(?<!\[)`([\w.]+)`")  # of something, in backticks, and not in a link
MODULES = r"\b(?:typing|collections\.abc|jaxloss(?:\.\w+)*|jax(?:lib)?(?:\.\w+)*|numpy)\."


class Runtime(griffe.Extension):
    """Replaces what griffe has found by what `inspect` finds at run time."""

    def on_function_instance(self, *, node: Any, func: griffe.Function, **_: Any) -> None:
        """Signature and docstring of a function."""
        function = getattr(node.parent.obj, node.name)
        spec = inspect.signature(function)
        func.parameters = griffe.Parameters(*map(parameter, spec.parameters.values()))
        func.returns = annotation(spec.return_annotation)
        if func.docstring:
            info = jl.catalogue.of(function)
            text = inspect.getdoc(function)
            family = function.__module__.split(".")[1:2]
            name = info.name if info else ".".join([*family, function.__name__])
            func.docstring.value = sections(illustrated(linked(text, info), name, info))

    def on_class_instance(self, *, cls: griffe.Class, **_: Any) -> None:
        """Docstring of a class."""
        if cls.docstring:
            cls.docstring.value = sections(linked(cls.docstring.value))

    def on_class_members(self, *, cls: griffe.Class, **_: Any) -> None:
        """The fields of a named tuple are in its docstring; Python says only their numbers."""
        for name, member in list(cls.members.items()):
            text = member.docstring if isinstance(member, griffe.Attribute) else None
            if text and text.value.startswith("Alias for field number"):
                del cls.members[name]

    def on_module_instance(self, *, mod: griffe.Module, **_: Any) -> None:
        """Docstring of a module."""
        if mod.docstring:
            mod.docstring.value = sections(linked(mod.docstring.value))


def parameter(given: inspect.Parameter) -> griffe.Parameter:
    """A parameter in griffe's form."""
    kind = griffe.ParameterKind[given.kind.name.lower()]
    default = None if given.default is given.empty else written(given.default)
    if default is None and given.kind in (given.VAR_POSITIONAL, given.VAR_KEYWORD):
        default = "()" if given.kind is given.VAR_POSITIONAL else "{}"
    return griffe.Parameter(
        given.name, annotation=annotation(given.annotation), kind=kind, default=default
    )


def annotation(hint: Any) -> str | None:
    """An annotation as it is written in the source; None without one."""
    if hint is inspect.Parameter.empty:
        return None
    text = hint if isinstance(hint, str) else inspect.formatannotation(hint)
    return re.sub(MODULES, "", str(text))


def written(default: Any) -> str:
    """A default as it is written in the source: functions by name, other objects by `repr`."""
    return getattr(default, "__name__", None) or repr(default)


def sections(text: str) -> str:
    """Our sections in the form that griffe and Markdown know."""
    text = re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)
    text = re.sub(r"^>>> .*(?:\n.+)*", example, text, flags=re.MULTILINE)
    text = re.sub(r"^When to use:", "**When to use:**", text, flags=re.MULTILINE)
    return re.sub(r"^References:\n((?:[ \n].*\n?)*)", references, text, flags=re.MULTILINE)


def example(lines: re.Match[str]) -> str:
    """A doctest outside a section as one."""
    return "Examples:\n" + textwrap.indent(lines[0], "    ")


def references(section: re.Match[str]) -> str:
    """The section References as a list: a work ends in a full stop at the end of a line."""
    works = [""]
    for line in textwrap.dedent(section[1]).strip().splitlines():
        works[-1] = f"{works[-1]} {line}".strip()
        if line.endswith("."):
            works.append("")
    return "**References**\n\n" + "\n".join(f"- {work}" for work in works if work) + "\n\n"


def illustrated(text: str, name: str, info: LossInfo | None) -> str:
    """A docstring with, behind the formula, the picture and of a loss the traits."""
    shown = picture(name) + (facts(info) if info else "")
    return re.sub(
        r"(\$\$.*?\$\$\n)",
        lambda formula: f"{formula[1]}\n{shown}\n",
        text,
        count=1,
        flags=re.DOTALL,
    )


def facts(info: LossInfo) -> str:
    """The tested traits of a loss."""
    traits = ", ".join(
        f'<abbr title="{trait.meaning}">{trait.name.replace("_", " ")}</abbr>'
        for trait in sorted(info.traits)
    )
    return f'<p class="facts">Tested on drawn inputs: {traits}.</p>\n' if traits else ""


def picture(name: str) -> str:
    """The picture of a function, which `build.py` has drawn; empty if there is none."""
    drawn = PICTURES / f"{name}.html"
    return drawn.read_text() if drawn.exists() else ""


def linked(text: str, info: LossInfo | None = None) -> str:
    """Makes names of losses in backticks links; examples stay as they are.

    Args:
        text: Markdown.
        info: The loss that the text is about: losses of its family are named without the module;
            its own name and those of its arguments are no links.
    """
    losses = {loss.name: loss.name for loss in jl.catalogue.losses() if loss.family}
    if info is not None:
        family = {n.rpartition(".")[2]: n for n in losses if n.startswith(f"{info.family}.")}
        own = {*info.signature.parameters, info.function.__name__}
        losses |= {short: name for short, name in family.items() if short not in own}

    def link(match: re.Match[str]) -> str:
        name = losses.get(match[1].removeprefix("jl.").removeprefix("jaxloss."))
        return f"[`{match[1]}`][jaxloss.{name}]" if name else match[0]

    return "".join(
        line if line.lstrip().startswith((">>>", "...")) else NAME.sub(link, line)
        for line in text.splitlines(keepends=True)
    )
