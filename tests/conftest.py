"""The suite over the catalogue: which setting each law is asked of, in which tier, and in what order."""

import contextlib

import cases
import hypothesis
import jax
import pytest
from laws import FEW

# Compilation dominates: few examples, each of many rows, and the same ones on every run.
hypothesis.settings.register_profile("fixed", max_examples=4, deadline=None, derandomize=True)
hypothesis.settings.load_profile("fixed")

EVERY = cases.settings()
FORMS = list({(s.info.name, s.array_specs): s for s in reversed(EVERY)}.values())[::-1]


def first_of_each_loss(settings):
    return list({s.info.name: s for s in reversed(settings)}.values())[::-1]


def asked(over, only):
    """The settings that a law is asked of."""
    every = FORMS if over == "forms" else EVERY
    every = [s for s in every if only is None or only(s)]
    if over == "few":
        few = [s for s in every if str(s) in FEW]
        return few or [s for s in every if s.info.name in {name.split("-")[0] for name in FEW}]
    return first_of_each_loss(every) if over == "losses" else every


def pytest_generate_tests(metafunc):
    """Parametrizes a law over the catalogue; what is of the full tier alone is marked slow."""
    law = getattr(metafunc.function, "law", None)
    if law is None or law.full == "catalogue":
        if law is not None:
            metafunc.parametrize("info", cases.losses(), ids=lambda info: info.name)
        return
    only = metafunc.function.only
    quick = [id(s) for s in asked(law.quick, only)]
    every = asked(law.full, only)
    every += [s for s in asked(law.quick, only) if s not in every]
    if metafunc.config.option.markexpr == "not slow":  # sooner than to make and deselect them
        every = [s for s in every if id(s) in quick]
    parameters = [
        pytest.param(s, id=str(s), marks=[] if id(s) in quick else [pytest.mark.slow])
        for s in every
    ]
    metafunc.parametrize("setting", parameters)


def subject(item):
    """The setting of which a test is a law."""
    is_law = hasattr(getattr(item, "function", None), "law")
    return item.callspec.params.get("setting") if is_law else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Brings the laws of one setting together, so that its program is compiled once and let go."""
    order = {id(s): place for place, s in enumerate(EVERY)}
    places = [i for i, item in enumerate(items) if subject(item) is not None]
    sorted_items = sorted((items[i] for i in places), key=lambda item: order[id(subject(item))])
    for place, item in zip(places, sorted_items, strict=True):
        items[place] = item
    for item in items:
        of = subject(item)
        group = of.info.name if of is not None else item.location[0]
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Says of a law that is broken: of what loss, what it asks, and what to do."""
    report = yield
    law = getattr(getattr(item, "function", None), "law", None)
    if report.failed and law is not None:
        of = next(iter(item.callspec.params.values()))
        name = item.function.__name__.removeprefix("test_")
        report.sections.insert(0, ("law", f"{of}\n{name}: {law.text}\nWhat to do: {law.remedy}."))
    return report


@pytest.fixture
def is_quick(request):
    """Whether this is `make test`, which draws less."""
    return request.config.option.markexpr == "not slow"


COMPILED = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, duration, **about: (
        COMPILED.append(about) if event == "/jax/core/compile/backend_compile_duration" else None
    )
)


@pytest.fixture
def count_compilations():
    """A context whose list has an entry for each program that is compiled in it."""

    @contextlib.contextmanager
    def count():
        before, compiled = len(COMPILED), []
        yield compiled
        compiled.extend(COMPILED[before:])

    return count
