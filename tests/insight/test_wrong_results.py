"""What public tools got wrong, and what is always true of heads: where each is tested here, and the tests that were missing.

Each of the errors was put into the code once, and a test named with it failed. (Two more belong to the explorer in the browser:
a scale of colours for each head, and numbers drawn that were not computed.)
"""

import ast
from pathlib import Path

import pytest
import torch
from heads import recorded

import headwise as hw

TESTS = Path(__file__).parent.parent
ERRORS = {
    "a head silenced after W_O, where heads are summed": [
        "insight/test_ablation.py::test_zero_is_a_gate_of_0_is_deleted_columns_is_the_output_less_the_heads_part",
        "models/test_anyones_heads.py::test_a_gate_of_zero_is_a_head_without_its_columns",
    ],
    "rows and columns swapped, tokens of the other side as labels": [
        "insight/test_observe.py::test_weights_are_the_models_and_make_its_outputs",
        "explorer/test_look.py::test_rows_are_queries_for_a_head_built_to_copy",
        "explorer/test_look.py::test_every_number_is_the_formulas",
    ],
    "rollout that divides columns by the sums of rows": [
        "insight/test_rollout.py::test_rollout_is_the_sum_over_paths",
        "insight/test_rollout.py::test_chosen_rows_are_those_of_the_product_and_sum_to_1",
    ],
    "text and image cut apart at the wrong place": [
        "insight/test_measures.py::test_a_block_matrix_gives_exact_block_scores",
        "insight/test_measures.py::test_shares_of_groups_are_sums_over_their_keys",
    ],
    "weights dropped in silence, position 0 first": [
        "insight/test_measures.py::test_nothing_is_dropped_the_shown_mass_and_the_rest_are_all"
    ],
    "the mean largest weight as importance": [
        "insight/test_measures.py::test_patterns_are_no_importance",
        "insight/test_importance.py::test_the_gradients_importance_is_that_of_finite_differences_of_the_gates",
    ],
}
IDENTITIES = {
    "sum over heads of z_h W_O^h + b = output": ["insight/test_observe.py::test_weights_are_the_models_and_make_its_outputs"],
    "gate 0 = columns deleted = output - z_h W_O^h = pruned": [
        "insight/test_ablation.py::test_zero_is_a_gate_of_0_is_deleted_columns_is_the_output_less_the_heads_part",
        "insight/test_pruning.py::test_a_pruned_model_is_the_one_with_gates_of_0_and_comes_back_from_its_folder",
    ],
    "recomputed rows = eager weights, and they make the outputs": [
        "models/test_anyones_heads.py::test_what_is_recorded_is_what_the_model_computes",
        "models/test_parity.py::test_parity",
    ],
    "step by step = one pass": [
        "insight/test_observe.py::test_steps_of_decoding_joined_are_the_one_pass",
        "insight/test_measures.py::test_a_joined_decoding_with_grouped_heads_and_sinks_is_the_one_pass",
        "models/test_anyones_heads.py::test_steps_of_a_decoding_join_to_one_pass",
    ],
    "left padding = no padding": ["insight/test_wrong_results.py::test_padding_on_either_side_changes_no_statistic"],
    "heads chosen or in another order stay what they were": ["insight/test_keep.py::test_some_heads_see_what_they_saw"],
    "grouped with repeated weights = ungrouped": [
        "insight/test_wrong_results.py::test_grouped_heads_are_heads_that_repeat_their_keys",
        "insight/test_grouping.py::test_it_is_exact_where_the_heads_of_a_group_are_equal",
    ],
    "saved and loaded = the same": [
        "insight/test_pruning.py::test_a_pruned_model_is_the_one_with_gates_of_0_and_comes_back_from_its_folder",
        "insight/test_keep.py::test_what_lies_in_a_folder_is_what_was_in_memory",
    ],
    "compiled, it is the same graph, and it is seen": [
        "insight/test_observe.py::test_the_graph_is_the_same_with_or_without_a_past_observation",
        "insight/test_observe.py::test_a_compiled_model_records_or_raises",
    ],
}


@pytest.mark.parametrize("what", ERRORS | IDENTITIES)
def test_the_tests_named_are_there(what):
    for test in (ERRORS | IDENTITIES)[what]:
        file, name = test.split("::")
        parsed = ast.walk(ast.parse((TESTS / file).read_text("utf-8")))
        assert name in {node.name for node in parsed if isinstance(node, ast.FunctionDef)}, test


@pytest.mark.parametrize("causal", [True, False], ids=["causal", ""])
@pytest.mark.parametrize("left", [4, 0], ids=["left", "right"])
def test_padding_on_either_side_changes_no_statistic(left, causal):
    """Of the first of two sequences, beside one that is as long as both with padding."""
    sides, query, tokens = (left, 4 - left), torch.randn(1, 3, 7, 5), torch.randint(4, (1, 7))
    padded = torch.cat([torch.randn(1, 3, sides[0], 5), query, torch.randn(1, 3, sides[1], 5)], dim=2)
    longer = torch.cat([padded, torch.randn(1, 3, 11, 5)])
    keep = torch.nn.functional.pad(torch.ones(1, 7, dtype=torch.bool), sides)
    keep, ids = torch.cat([keep, torch.ones(1, 11, dtype=torch.bool)]), torch.nn.functional.pad(tokens, sides).expand(2, -1)
    rule = hw.masks.causal() if causal else hw.masks.window(None, None)
    alone = hw.statistics({"a": [recorded(query, query, rule)]}, tokens=tokens)["a"]
    beside = hw.statistics({"a": [recorded(longer, longer, rule & hw.masks.padding(keep))]}, tokens=ids)["a"]
    assert {"first", "previous", "distance", "spread", "induction", "diagonality"} <= alone.by_sequence.keys()
    for name, numbers in alone.by_sequence.items():
        torch.testing.assert_close(beside.by_sequence[name].mean[:1], numbers.mean, msg=name)
    torch.testing.assert_close(beside.received[:1, :, sides[0] : sides[0] + 7], alone.received)


def test_grouped_heads_are_heads_that_repeat_their_keys():
    query, key = torch.randn(2, 6, 7, 5), torch.randn(2, 2, 7, 5)
    grouped, repeated = recorded(query, key, hw.masks.causal()), recorded(query, key.repeat_interleave(3, 1), hw.masks.causal())
    torch.testing.assert_close(grouped.weights(), repeated.weights())
    torch.testing.assert_close(grouped.head_outputs, repeated.head_outputs)
    one, other = (hw.statistics({"a": [call]})["a"] for call in (grouped, repeated))
    for name, numbers in one.by_sequence.items():
        torch.testing.assert_close(numbers.sums, other.by_sequence[name].sums, msg=name)
