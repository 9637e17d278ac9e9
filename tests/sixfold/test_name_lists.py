from sixfold.name_lists import by_layer


def test_whole_layers_and_names_that_differ_in_numbers_are_counted() -> None:
    names = ["layers.61.a.weight", "layers.61.b.weight", "visual.blocks.0.fc", "visual.blocks.1.fc", "visual.norm"]
    assert by_layer(names) == "layers.61 (2), visual.blocks.*.fc (2), visual.norm"
