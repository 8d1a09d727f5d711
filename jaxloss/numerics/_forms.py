"""Forms of an expression with the same numbers, of which each compiler gets the quicker one.

Mathematics states the forms; which platform gets which is known to `_xla` alone.

- `separate_derivative(function)`: on GPU the derivative is evaluated apart from the value, so that
  the two need not share an array in memory.
- `on_cpu(form, other)`: two functions, the first for programs of CPU.
"""

from jaxloss._xla import on_cpu, separate_derivative

__all__ = ["on_cpu", "separate_derivative"]
