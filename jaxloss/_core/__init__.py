"""The contract: what `@loss` adds to a function, the same for every loss."""
