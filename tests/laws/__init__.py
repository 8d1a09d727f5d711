"""The laws of jaxloss: what holds of every loss, each with its name and one line.

Each law is a test of its name in this folder, found over the catalogue: a new loss is held to all
of them by its row in `tests/cases`. `quick` says of which settings `make test` asks it, `full` of
which `make suite` does, and `check` of which `make check` does, where it asks more than `make test`:

- `settings`: every loss, with every form of its arguments and every set of options of its row;
- `options`: of those so many that each form and each option is there once;
- `forms`: every loss, with every form of its arguments, and the first options of its row;
- `losses`: every loss once, in the first setting to which the law applies;
- `few`: a handful of losses that have every form of declaration between them (`FEW`).

Most laws are NumPy on the answers of one compiled program a setting (`harness.programs`): they cost
nothing once it is there. A law that needs a program of its own is asked of a few losses in the
quick tier, and once a form in the full one. A law about traces compiles nothing.

Law 1 is shape, 2 masks and reductions, 3 arguments, ... of the design; here they go by name.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

FEW = (
    "regression.huber",
    "regression.mean_squared_error",
    "regression.quantiles",
    "classification.softmax_cross_entropy-int",
    "classification.hinge",
    "divergence.kl_log",
    "ranking.softmax",
    "contrastive.binary_nce",
    "segmentation.dice-int",
    "router.load_balance",
)
"""Settings of which every form of declaration has one: elementwise, a reduction by default, an
option along an axis, class ids, signs, logarithms, lists, sets, images, and sequences."""


class Law(NamedTuple):
    """What holds, of which settings it is asked in each tier, and what to do where it does not."""

    text: str
    quick: str
    full: str
    remedy: str
    check: str | None = None

    def over(self, tier: str) -> str:
        """Of which settings a tier asks it."""
        if tier == "check":
            return self.check or self.quick
        return self.quick if tier == "test" else self.full


ORACLE = "mend the mathematics of the loss, or its oracle in tests/cases: one of them is wrong"
CONTRACT = "this is the contract's, jaxloss/_core: the loss should not have to do anything for it"
MASK = "compute the entries that do not count from harmless inputs; `jnp.where` behind them is late"
FINITE = (
    "differentiate by hand what is 0 / 0 there (jax.custom_jvp), or keep the branch not taken finite "
    "with a second `jnp.where` on its inputs"
)
TRACE = "no Python branch on a value, no number of Python's made from an array"

LAWS = {
    # --- mathematics
    "value_is_that_of_the_oracle": Law(
        "A loss is its oracle, the formula in plain Python, with every set of options.",
        "options", "settings", ORACLE,
    ),
    "gradient_is_that_of_the_oracle": Law(
        "Its gradient is that of the oracle, in data and numeric options alike.",
        "options", "settings", ORACLE,
    ),
    "second_derivative_is_that_of_the_oracle": Law(
        "So is its curvature along a random direction.",
        "few", "settings", ORACLE + "; a custom_jvp rule must be differentiable itself",
        check="losses",
    ),
    "accurate_to_a_few_units_in_the_last_place": Law(
        "Value and gradient keep their digits over the whole domain, within the bound of the row.",
        "losses", "settings",
        "write the formula so that nothing cancels: jaxloss.numerics has expm1_minus_x, x_minus_log1p, "
        "exprel, softmax_nll and their kin; raise `ulp` of the row only with the reason beside it",
    ),
    "claimed_trait_holds": Law(
        "What a loss claims of itself (convex, symmetric, proper ...) is true.",
        "losses", "settings", "take the trait out of `@loss(...)`, or mend the mathematics",
    ),
    "a_number_is_worth_the_same_written_or_traced": Law(
        "A numeric option gives the same loss as a Python number and as a traced array.",
        "few", "settings", TRACE,
    ),
    # --- shape
    "a_batch_is_vmap_is_a_loop": Law(
        "Leading axes are a batch: `vmap(f)` is `f`, and so is a loop over examples.",
        "few", "forms", "reduce over the event axes alone, by negative numbers",
    ),
    "an_empty_batch_is_fine": Law(
        "A batch of none has a loss of none, and mean 0.", "few", "forms", CONTRACT
    ),
    "wrong_shapes_are_refused": Law(
        "An argument of another shape is an error that names it and what was expected.",
        "losses", "forms", "annotate the argument with all its axes",
    ),
    "axis_moves": Law(
        "`axis` says where the event axis lies, and is checked.", "few", "forms", CONTRACT
    ),
    # --- where, weights, reduction
    "where_hides_whatever_the_inputs_hold": Law(
        "A masked entry has value 0 and gradient 0, be its inputs NaN, inf or no class.",
        "losses", "settings", MASK,
    ),
    "where_takes_an_example_out_of_its_set": Law(
        "In a loss over a set a masked example is neither anchor nor positive nor negative.",
        "losses", "settings", MASK,
    ),
    "mask_hides_whatever_the_inputs_hold": Law(
        "What `mask` leaves out of an example may be NaN, and makes none under `jax_debug_nans`.",
        "few", "forms", "declare the domain; in the body, `jnp.where(mask, terms, 0)` behind a sum",
    ),
    "nothing_that_counts_gives_zero": Law(
        "With everything masked, values, mean and gradients are 0.", "losses", "settings", MASK
    ),
    "what_counts_keeps_its_value_and_gradient": Law(
        "A mask changes nothing of what it leaves.", "losses", "settings", MASK
    ),
    "a_mean_is_a_weighted_total_over_its_weight": Law(
        '"parts" is sum(w l) and sum(w) over what counts; its gradient is that of the quotient.',
        "few", "forms", CONTRACT,
    ),
    "reductions_are_what_they_say": Law(
        '"none", "sum", "mean" and "parts" agree, with mask, weights, both or neither.',
        "few", "forms", CONTRACT,
    ),
    "keyword_arguments_are_checked": Law(
        "A wrong reduction, mask, weight or name is an error that says what to write.",
        "losses", "forms", CONTRACT,
    ),
    # --- arguments
    "any_array_like_will_do": Law(
        "Lists, NumPy and 64 bits come in, and float32 comes out.", "few", "forms", CONTRACT
    ),
    "what_is_no_number_is_refused": Law(
        "Text and complex numbers are errors that name the argument.", "losses", "forms", CONTRACT
    ),
    "one_trace_however_the_numbers_change": Law(
        "Other numbers in data and options trace nothing again.", "few", "forms", TRACE
    ),
    # --- precision
    "half_precision_is_computed_in_float32": Law(
        "bfloat16 and float16 are widened first; gradients come back in the dtype of the input.",
        "few", "forms", CONTRACT,
    ),
    "float64_stays_and_float32_does_not_widen": Law(
        "The result has the dtype of the data, with x64 on and strict promotion as well.",
        "losses", "forms",
        "name no dtype, make no array of a Python float, and sum integers with `dtype=jnp.int32`",
    ),
    "float64_has_its_digits": Law(
        "In float64 a loss is its oracle to 1e-10.", "few", "forms", "no float32 in the body"
    ),
    # --- derivatives
    "forward_mode_is_reverse_mode": Law(
        "A derivative along a direction is the product with the gradient.",
        "few", "settings", "a rule must be custom_jvp, linear in its tangents", check="losses",
    ),
    "second_derivatives_agree_in_every_mode": Law(
        "Forward over reverse is reverse over reverse.",
        "few", "forms", "a rule must be custom_jvp, of functions that have derivatives themselves",
    ),
    "a_scan_has_the_derivatives_outside": Law(
        "Inside `lax.scan` first and second derivatives are those outside.",
        "few", "forms", "the formula behind a custom_jvp must be right too: a scan forgets the rule",
    ),
    "derivatives_are_finite_at_a_perfect_prediction": Law(
        "Where the loss is finite its derivatives are: at ties, zeros and equal arguments.",
        "losses", "settings", FINITE,
    ),
    "subnormal_numbers_are_no_worse_than_zeros": Law(
        "Inputs that XLA flushes to 0 in one place and not in another give no NaN, nor does -0.",
        "losses", "settings", FINITE,
    ),
    "edges_of_a_domain_meet_without_nan": Law(
        "Where arguments are at an edge of their domain, a value may be inf, but is not NaN.",
        "losses", "settings", FINITE,
    ),
    "a_nan_that_counts_is_seen": Law(
        "A NaN in any input gives a NaN value, and a NaN gradient of it or of the prediction.",
        "losses", "settings",
        "a comparison with NaN is False: let the branch that it falls into multiply by the input; in what the "
        "loss is linear in, `numerics._elementwise.linear_argument`",
    ),
    # --- bad input
    "a_label_outside_gives_nan_and_never_a_class": Law(
        "No label but those allowed has a value or a gradient; other examples keep theirs.",
        "losses", "settings", "declare the domain: @loss(labels=domains.class_ids(...))",
    ),
    "ids_are_compared_before_they_are_narrowed": Law(
        "int64 and uint32 labels beyond the classes are NaN, however they wrap in int32.",
        "few", "forms", CONTRACT,
    ),
    "checks_name_the_loss_the_argument_and_the_value": Law(
        "Under `checks()` a value outside its domain is an error that shows it.",
        "few", "forms", CONTRACT,
    ),
    "checks_off_leave_no_trace": Law(
        "Without `checks()` the program is as if there were none.", "few", "forms", CONTRACT
    ),
    # --- programs
    "the_decorator_adds_nothing_to_the_program": Law(
        "The jaxpr of a plain call is that of the bare mathematics.", "losses", "forms", CONTRACT
    ),
    "strict_promotion_is_no_trouble": Law(
        "It runs with rank promotion an error and dtype promotion strict, in bfloat16 too.",
        "losses", "settings",
        "write the axes out (`x[..., None]`), and cast with `.astype(x.dtype)`",
    ),
    "it_exports_for_every_platform_and_any_batch": Law(
        "`jax.export` reads it as cpu, cuda and tpu with a symbolic batch, with its gradient.",
        "few", "forms", "no Python comparison of sizes, no platform known while tracing",
    ),
    "it_runs_where_one_argument_differs_between_devices": Law(
        "Inside `shard_map` the last of the data may be split and the others not.",
        "few", "forms",
        "start a loop from `numerics._carry.carried(start, what its steps read)`, and give the "
        "branches of a `lax.cond` the same types by it",
    ),
    "checkify_reads_its_gradient": Law(
        "`checkify` with all checks traces value and gradient.", "few", "forms",
        "take entries by `numerics._labels.take_label`: the transpose of a batched gather is no "
        "program for checkify",
    ),
    "eager_calls_compile_once_and_make_no_nan": Law(
        "A third eager call compiles nothing, and `jax_debug_nans` raises on no finite loss.",
        "few", "forms",
        "make no function anew in each call (jax.jit, custom_jvp, lax loops over a lambda); keep 0 * inf "
        "and 0 / 0 out of the branch not taken",
    ),
    # --- words
    "every_loss_has_a_row": Law(
        "A loss has a row in tests/cases: how to draw its inputs, and an oracle.",
        "catalogue", "catalogue", "add it to CASES in tests/cases/<family>.py",
    ),
    "every_loss_can_be_reached": Law(
        "`jaxloss.<family>.<name>` is the loss, and the family lists it in `__all__`.",
        "catalogue", "catalogue", "add it to the `__init__` of its family",
    ),
    "docstring_is_complete": Law(
        "First line, `When to use:`, equation, Args, Returns, Raises, Example, References.",
        "catalogue", "catalogue", "see jaxloss.regression.huber",
    ),
    "signature_shows_every_argument": Law(
        "Data are positional, options are by name, `where`, `weights`, `reduction` among them.",
        "catalogue", "catalogue", CONTRACT,
    ),
}  # fmt: skip

PENDING: dict[str, dict[str, str]] = {
    "checkify_reads_its_gradient": {
        "distillation.top_k_kl": "JAX's `scatter_oob` knows no batching dimensions, without which "
        "a scatter would gather the logits of a mesh",
    },
}
"""Where a law is known to be broken, and why: the test must fail there, until it is mended."""


def leaves_where(setting: Any) -> bool:
    """Whether the options of a setting leave `where` to the law, which gives one of its own.

    A setting that gives it is one of a loss over a set, against the oracle of the smaller set. That
    the mask of a law does the same is `where_takes_an_example_out_of_its_set`, so that what holds
    of the set of the first setting holds of the smaller one.
    """
    return "where" not in setting.given


def law(*, only: Callable[[Any], bool] | None = None) -> Callable[[Any], Any]:
    """Makes a test that of a law: `only` tells of which settings it can be asked at all."""

    def mark(function: Any) -> Any:
        function.law = LAWS[function.__name__.removeprefix("test_")]
        function.only = only
        return function

    return mark
