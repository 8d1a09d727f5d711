"""Plots: every line, hatch and word is compared with the function."""

import functools
import html.parser
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest
import scipy.stats

import jaxloss as jl
from jaxloss import plot
from jaxloss.plot import _curves, _lines, _paths, _sections, _style, _svg, _training

matplotlib.use("Agg")
plt = pytest.importorskip("matplotlib.pyplot")

huber, squared = jl.regression.huber, jl.regression.squared_error
cross_entropy = jl.classification.softmax_cross_entropy


@pytest.fixture(autouse=True)
def _closed(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a library never calls plt.show")

    monkeypatch.setattr(plt, "show", refuse)
    yield
    plt.close("all")


def lines(ax):
    """What is drawn, by its name in the legend."""
    return {line.get_label(): line.get_xydata() for line in ax.lines}


def hatched(ax):
    """The ranges that are hatched."""
    spans = [patch for patch in ax.patches if patch.get_hatch()]
    return [(span.get_x(), span.get_x() + span.get_width()) for span in spans]


@pytest.mark.slow
def test_importing_plot_imports_no_matplotlib():
    code = "import jaxloss.plot, sys; print('matplotlib' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"


def test_curve_draws_the_function_and_its_gradient():
    ax = plot.curve(huber, over=(-2.0, 2.0), delta=0.5)
    x, value = lines(ax)["value"].T
    np.testing.assert_allclose(value, np.where(abs(x) < 0.5, x**2 / 2, abs(x) / 2 - 0.125), 1e-5)
    np.testing.assert_allclose(lines(ax)["gradient"][:, 1], np.clip(x, -0.5, 0.5), atol=1e-6)
    assert ax.get_title(loc="left") == "huber, delta=0.5"
    assert ax.get_xlabel() == "prediction - target"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "given", "variable", "over"),
    [
        (jl.classification.hinge, {"labels": -1.0}, "scores", (-4, 4)),
        (jl.classification.binary_cross_entropy, {}, "probabilities", (0.01, 0.99)),
        (jl.nll.gamma, {"target": 2.0, "concentration": 3.0}, "mean", (0.05, 4)),
        (lambda p, t: abs(p - t) ** 3, {"t": 1.0}, "p", (-4, 4)),
    ],
    ids=["labels", "domain", "three arguments", "own"],
)
def test_declaration_says_what_moves_and_where(loss, given, variable, over):
    ax = plot.curve(loss, **given)
    x, value = lines(ax)["value"].T
    assert ax.get_xlabel() == variable
    assert (x[0], x[-1]) == over
    others = [given[name] for name in given]
    expected = loss(jnp.asarray(x), *others or [1.0])
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)


def test_partials_and_given_axes():
    _, ax = plt.subplots()
    assert plot.curve(functools.partial(huber, delta=2.0), ax=ax) is ax
    assert ax.get_title(loc="left") == "huber, delta=2"
    with pytest.raises(ValueError, match=r"plot\.compare: `ax` holds 1 axes, expected 2"):
        plot.compare([huber], ax=ax)


def test_what_is_not_finite_is_hatched():
    ax = plot.curve(lambda p, t: jnp.where(p > 1, jnp.nan, p - t), over=(-2.0, 2.0))
    ((low, high),) = hatched(ax)
    assert low == pytest.approx(1.0, abs=0.011)
    assert high == pytest.approx(2.0, abs=0.011)
    assert not hatched(plot.curve(huber))


def test_a_pole_does_not_flatten_the_rest():
    low, high = plot.curve(lambda p, t: 1e-3 / jnp.abs(p - t), over=(-1.0, 1.0)).get_ylim()
    assert high - low < 20
    assert np.isfinite([low, high]).all()
    assert plot.curve(squared).get_ylim()[1] > 16


def test_losses_of_vectors_are_refused_with_what_to_write():
    with pytest.raises(ValueError, match=r"not elementwise.*classes.*plot\.section\(softmax_cross"):
        plot.curve(cross_entropy)
    with pytest.raises(ValueError, match="a loss over a whole set"):
        plot.compare([jl.contrastive.info_nce])
    with pytest.raises(ValueError, match=r"array of shape \(3,\)"):
        plot.curve(lambda p, t: p * jnp.ones(3))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: plot.curve("huber"), TypeError, r"expected a loss such as .*huber, got 'huber'"),
        (lambda: plot.curve(huber, width=1.0), TypeError, r"no argument \['width'\].*delta"),
        (lambda: plot.curve(lambda a, b, c: a), TypeError, r"needs \['c'\].*c=\.\.\."),
        (lambda: plot.compare(huber), TypeError, r"a list of losses.*\[huber\]"),
        (lambda: plot.compare([huber, huber]), ValueError, "give a dict"),
        (lambda: plot.influence(huber, [0.0, np.nan]), ValueError, "1 of them not finite"),
        (lambda: plot.section(lambda x: x), ValueError, "give `start` and `end`"),
        (lambda: plot.section(huber, start=1.0), ValueError, "both ends"),
        (lambda: plot.slider(huber, over={}), ValueError, r"0 options.*\"delta\": \(0\.1, 3\.0\)"),
        (lambda: plot.slider(huber, over={"delta": 1.0}), ValueError, "its two ends"),
        (lambda: plot.slider(huber, over={"width": (1, 2)}), TypeError, "no argument"),
        (lambda: plot.landscape(lambda p: p, jnp.ones(3)), ValueError, 'reduction="mean"'),
        (lambda: plot.terms([]), ValueError, "is empty"),
        (lambda: plot.terms([{"a": 1}, {"b": 1}]), ValueError, r"step 1 has the terms \['b'\]"),
        (lambda: plot.calibration([2.0], [1]), ValueError, "expected 0 to 1.*sigmoid"),
        (lambda: plot.calibration([0.5], [1, 0]), ValueError, r"shape \(1,\).*\(2,\)"),
    ],
)
def test_errors_say_what_to_write(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.slow
@pytest.mark.parametrize(
    "draw",
    [
        lambda: plot.curve(huber),
        lambda: plot.compare([huber]),
        lambda: plot.influence(huber),
        lambda: plot.landscape(jnp.sum, jnp.ones((2, 2))),
        lambda: plot.terms([{"fit": 1.0}]),
        lambda: plot.calibration([0.5], [1]),
    ],
)
def test_without_matplotlib_the_extra_is_named(draw, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'jaxloss\[plot\]'"):
        draw()


def test_compare_puts_values_and_gradients_side_by_side():
    values, gradients = plot.compare({"half": huber, "whole": squared}, over=(-3.0, 3.0))
    x, gradient = lines(gradients)["whole"].T
    np.testing.assert_allclose(gradient, 2 * x, atol=1e-5)
    np.testing.assert_allclose(lines(values)["half"][0], [-3, 2.5])
    styles = {(line.get_color(), str(line.get_linestyle())) for line in values.lines}
    assert len(styles) == 3


@pytest.mark.slow
def test_influence_is_the_sensitivity_curve():
    sample, x = np.array([-2.0, -1.0, 0.0, 1.0, 4.0]), np.linspace(-9, 9, 19)
    of_mean = _curves.sensitivity(squared, sample, x)
    np.testing.assert_allclose(of_mean, x - sample.mean(), atol=2e-3)
    of_median = _curves.sensitivity(jl.regression.absolute_error, sample, x)
    medians = np.array([np.median([*sample, one]) for one in x])
    np.testing.assert_allclose(of_median, 6 * (medians - np.median(sample)), atol=2e-2)
    redescending = _curves.sensitivity(functools.partial(jl.robust.tukey, scale=5.0), sample, x)
    assert abs(redescending[[0, -1]]).max() < 0.01 < 0.5 < abs(redescending).max()


def test_section_follows_a_line_through_parameters():
    start, end = {"w": jnp.zeros(2)}, {"w": jnp.array([1.0, 2.0])}
    ax = plot.section(lambda p: jnp.sum(p["w"] ** 2), start, end)
    share, value = lines(ax)["value"].T
    np.testing.assert_allclose(value, 5 * share**2, atol=1e-5)
    np.testing.assert_allclose(lines(ax)["gradient"][:, 1], 10 * share, atol=1e-5)


def test_section_of_a_catalogued_loss_is_a_line_that_says_something():
    x, value = lines(plot.section(cross_entropy))["value"].T
    np.testing.assert_allclose(value, np.log(1 + 2 * np.exp(-x)), rtol=1e-4)


def test_every_loss_has_a_picture():
    assert [i.name for i in jl.catalogue.losses() if i.family and not _sections.of(i)] == []


@pytest.mark.slow
def test_every_line_is_followed_by_a_loss_and_none_is_flat():
    found = {}
    for info in jl.catalogue.losses():
        subject = _sections.of(info)
        if subject and subject.variable not in found:
            line = found[subject.variable] = subject.sample(points=9)
            assert np.isfinite(line.value).all(), info.name
            assert np.ptp(line.value) > 0, info.name
    unused = {path.variable for path in _paths.PATHS.values()} - found.keys()
    assert not unused, f"lines that no loss follows: {unused}"


def test_directions_are_filter_normalised():
    params = {"w": jax.random.normal(jax.random.key(0), (3, 3, 4, 5)), "b": jnp.ones(5)}
    direction = _training.normalised(jax.random.key(1), params)
    lengths = [np.linalg.norm(tree["w"].reshape(-1, 5), axis=0) for tree in (params, direction)]
    np.testing.assert_allclose(*lengths, rtol=1e-5)
    assert not direction["b"].any()
    # The claim of the paper: scaling a filter scales the direction, so that the picture stays.
    scaled = _training.normalised(jax.random.key(1), {**params, "w": 7 * params["w"]})
    np.testing.assert_allclose(scaled["w"], 7 * direction["w"], rtol=1e-5)


def test_landscape_counts_what_is_not_finite():
    def loss(params, offset):
        return jnp.sqrt(params["a"]) + params["b"] ** 2 + offset

    along = ({"a": 1.0, "b": 0.0}, {"a": 0.0, "b": 1.0})
    ax = plot.landscape(loss, {"a": 0.0, "b": 0.0}, 1.0, directions=along, points=11)
    assert ax.get_title(loc="left") == "hatched: 55 of 121 points are NaN or infinite"
    whole = plot.landscape(loss, {"a": 2.0, "b": 0.0}, 1.0, directions=along, points=11)
    assert not whole.get_title(loc="left")


def test_terms_are_drawn_each_and_the_broken_step_is_hatched():
    history = [{"fit": 4.0 - i, "penalty": np.nan if i == 2 else 0.5} for i in range(4)]
    ax = plot.terms(history)
    np.testing.assert_array_equal(lines(ax)["fit"][:, 1], [4, 3, 2, 1])
    assert hatched(ax) == [(1.5, 2.5)]
    assert ax.get_yscale() == "linear"
    assert plot.terms({"fit": [1.0, 0.1], "z": [1e-3, 1e-3]}).get_yscale() == "log"


def test_calibration_counts_and_its_intervals_are_wilsons():
    low, high = _training.wilson(np.array([0.9, 0.0]), np.array([10, 4]))
    for k, n, *ours in ((9, 10, low[0], high[0]), (0, 4, low[1], high[1])):
        theirs = scipy.stats.binomtest(k, n).proportion_ci(method="wilson")
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    said = np.array([0.2] * 5 + [0.8] * 5 + [np.nan])
    ax = plot.calibration(said, [1, 0, 0, 0, 0, 1, 1, 1, 0, 1, 1])
    observed = ax.containers[0][0].get_xydata()
    np.testing.assert_allclose(observed, [[0.2, 0.2], [0.8, 0.8]])
    assert ax.get_title(loc="left") == "1 of 11 are NaN and not in it"


def test_calibration_of_classes_judges_the_largest_and_bins_evenly():
    generator = np.random.default_rng(0)
    probabilities = generator.dirichlet(np.ones(3), 600)
    labels = np.array([generator.choice(3, p=p) for p in probabilities])
    x, observed = plot.calibration(probabilities, labels, bins=6).containers[0][0].get_xydata().T
    assert len(x) == 6
    np.testing.assert_allclose(x.mean(), probabilities.max(1).mean(), rtol=1e-6)
    assert abs(observed - x).max() < 0.15


class Elements(html.parser.HTMLParser):
    """The elements of a page by tag."""

    def __init__(self, text):
        super().__init__()
        self.found = {}
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.setdefault(tag, []).append(dict(attributes))


def test_slider_holds_every_position_and_needs_nothing_else():
    shown = plot.slider(huber, over={"delta": (0.5, 2.0)}, x=(-3.0, 3.0))
    elements = Elements(shown._repr_html_()).found
    frames = json.loads(elements["figure"][0]["data-frames"])
    (slider,) = elements["input"]
    assert (slider["type"], slider["min"], slider["max"]) == ("range", "0", str(len(frames) - 1))
    assert [frames[0][2], frames[-1][2]] == ["delta = 0.5", "delta = 2"]
    # The value at the left edge, read off the picture: its highest point is that of delta = 2.
    heights = [float(re.match(r"M[\d.]+ ([\d.]+)", frame[0])[1]) for frame in frames]
    zero = float(re.match(r"M6 ([\d.]+)H", elements["path"][0]["d"])[1])
    expected = [huber(-3.0, 0.0, delta=d) for d in (0.5, 2.0)]
    read = [zero - heights[0], zero - heights[-1]]
    assert read[0] / read[1] == pytest.approx(float(expected[0] / expected[1]), abs=0.01)
    assert "http" not in shown.html.replace("http://www.w3.org/2000/svg", "")
    assert "<script" not in shown.html
    assert len(shown.html) < 100_000


def test_slider_speaks():
    shown = plot.slider(huber, over={"delta": (0.1, 3.0)})
    elements = Elements(shown.html).found
    (slider,), (picture, _) = elements["input"], elements["svg"]
    assert slider["aria-label"] == "delta"
    assert slider["aria-valuetext"] == "delta = 0.548"
    assert picture["role"] == "img"
    assert picture["aria-label"].startswith("delta = 0.548: huber (solid) and its gradient")
    assert "aria-valuetext" in slider["oninput"]
    assert {"label", "output"} <= elements.keys()
    assert repr(shown) == "<slider of huber: delta from 0.1 to 3>"


def test_small_pictures_are_svg_with_a_description():
    line = _lines.elementwise("test", lambda p, t: jnp.where(p > 1, jnp.nan, p), {}).sample()
    picture = ElementTree.fromstring(_svg.picture(line))
    assert picture.attrib["role"] == "img"
    assert "steepest slope 1" in picture.attrib["aria-label"]
    value = picture.find("{*}path[@class='value']").attrib["d"]
    assert value.count("M") == 1
    assert "nan" not in value


def luminance(color):
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return np.dot(linear, [0.2126, 0.7152, 0.0722])


def contrast(a, b):
    brighter, darker = sorted([luminance(a), luminance(b)], reverse=True)
    return (brighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("page", ["#ffffff", "#0d1117"])
def test_text_and_first_lines_can_be_read_on_light_and_dark_pages(page):
    assert contrast(_style.GREY, page) > 4.2
    assert all(contrast(color, page) > 3 for color in (_style.BLUE, _style.VERMILLION))


def test_figures_are_transparent():
    ax = plot.curve(huber)
    assert ax.get_facecolor()[3] == ax.figure.get_facecolor()[3] == 0
    assert plt.rcParams["figure.facecolor"] == "white"
