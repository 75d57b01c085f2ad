"""The mechanism: the formula, the rules, the kernels and the module. Imports torch (and jaxtyping for shapes) alone."""
