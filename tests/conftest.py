"""The laws over the catalogue: which setting each is asked of, in which tier, and in what order."""

import contextlib
import functools
import os

import jax
import pytest
from laws import FEW, PENDING

TIERS = {"not slow": "test", "not slow or mesh": "check"}  # by their `-m`


def tier_of(config):
    """Which tier runs: that of `make test`, of `make check`, or of `make suite`."""
    return TIERS.get(config.option.markexpr, "suite")


@functools.cache
def every_setting():
    """All settings, once; imported here, so that jaxtyping may watch how jaxloss is imported."""
    import cases

    return cases.settings()


def first_of_each(settings, key):
    return list({key(s): s for s in reversed(settings)}.values())[::-1]


def by_loss(setting):
    return setting.info.name


def by_form(setting):
    return setting.info.name, setting.array_specs


def covering(settings):
    """Of each loss the first setting of each form, and one for each of the options."""
    seen = set()
    for setting in settings:
        parts = {by_form(setting), *((by_loss(setting), option) for option in setting.given)}
        if not parts <= seen:
            yield setting
        seen |= parts


def asked(over, only):
    """The settings that a law is asked of; see `laws`."""
    every = [s for s in every_setting() if only is None or only(s)]
    if over == "options":
        return list(covering(every))
    if over == "forms":
        return first_of_each(every, by_form)
    if over == "losses":
        return first_of_each(every, by_loss)
    if over == "few":
        few = [s for s in first_of_each(every, by_form) if str(s) in FEW]
        return few or [s for s in every if s.info.name in {name.split("-")[0] for name in FEW}]
    return every


def parameter(value, name, pending, *marks):
    """What a law is asked of; where it is known to be broken, it must be."""
    if name in pending:
        marks = (*marks, pytest.mark.xfail(reason=pending[name], strict=True))
    return pytest.param(value, id=name, marks=marks)


def pytest_generate_tests(metafunc):
    """Parametrizes a law over the catalogue; what is of the full tier alone is marked slow."""
    law = getattr(metafunc.function, "law", None)
    if law is None:
        return
    pending = PENDING.get(metafunc.function.__name__.removeprefix("test_"), {})
    if law.full == "catalogue":
        import cases

        losses = [parameter(info, info.name, pending) for info in cases.losses()]
        metafunc.parametrize("info", losses)
        return
    tier = tier_of(metafunc.config)
    # What every run but `make suite` leaves out is of that tier alone, and marked slow.
    own = asked(law.over("test" if tier == "suite" else tier), metafunc.function.only)
    every = [] if tier == "test" else asked(law.full, metafunc.function.only)
    slow = [parameter(s, str(s), pending, pytest.mark.slow) for s in every if s not in own]
    metafunc.parametrize("setting", [*(parameter(s, str(s), pending) for s in own), *slow])


def subject(item):
    """The setting of which a test is a law."""
    is_law = hasattr(getattr(item, "function", None), "law")
    return item.callspec.params.get("setting") if is_law else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Brings the laws of one setting together, so that its program is compiled once and let go."""
    from harness import programs

    programs.is_quick = tier_of(config) == "test"
    places = [i for i, item in enumerate(items) if subject(item) is not None]
    order = {id(s): place for place, s in enumerate(every_setting())} if places else {}
    by_setting = sorted((items[i] for i in places), key=lambda item: order[id(subject(item))])
    for place, item in zip(places, by_setting, strict=True):
        items[place] = item
    for item in items:
        of = subject(item)
        group = of.info.name if of is not None else item.location[0]
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    """Says of a law that is broken: of what loss, what it asks, and what to do."""
    report = yield
    law = getattr(getattr(item, "function", None), "law", None)
    if report.failed and law is not None:
        of = next(iter(item.callspec.params.values()))
        name = item.function.__name__.removeprefix("test_")
        report.sections.insert(0, ("law", f"{of}\n{name}: {law.text}\nWhat to do: {law.remedy}."))
    return report


@pytest.fixture
def is_light():
    """Whether LLVM optimizes nothing, as in `make test`."""
    return "xla_backend_optimization_level=0" in os.environ["XLA_FLAGS"]


@pytest.fixture
def tier(request):
    """ "test", "check" or "suite": each draws more than the one before."""
    return tier_of(request.config)


@pytest.fixture
def count_compilations():
    """A context whose list has an entry for each program that is compiled in it."""

    @contextlib.contextmanager
    def count():
        compiled, active = [], True

        def react(event, duration, **about):
            if active and event == "/jax/core/compile/backend_compile_duration":
                compiled.append(about)

        jax.monitoring.register_event_duration_secs_listener(react)
        yield compiled
        active = False

    return count
