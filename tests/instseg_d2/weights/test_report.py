from instseg_d2.weights.report import LoadReport, grouped_by_module, make_report


def test_report_finds_misshaped_tensors_that_heuristics_left_under_their_old_names():
    report = make_report(
        file_shapes={"m.a.w": (2,), "b.w": (3,), "c.w": (4,)},
        model_shapes={"m.a.w": (2,), "m.b.w": (9,), "m.d.w": (1,)},
        missing=["m.b.w", "m.d.w"],
        unexpected=["b.w", "c.w"],
    )
    assert report == LoadReport(["m.a.w"], ["m.d.w"], ["c.w"], [("m.b.w", (3,), (9,))])


def test_batch_counters_of_one_side_are_not_reported():
    report = make_report(
        file_shapes={"a.w": (2,), "a.num_batches_tracked": ()},
        model_shapes={"a.w": (2,), "b.num_batches_tracked": ()},
        missing=["b.num_batches_tracked"],
        unexpected=["a.num_batches_tracked"],
    )
    assert report == LoadReport(["a.w"], [], [], [])


def test_table_has_counts_and_lists_what_was_not_loaded():
    names = [f"head.{index}.w" for index in range(12)]
    misshaped = [(f"m.{index}", (index, 1), (index, 2)) for index in range(15)]
    lines = LoadReport(["a"] * 3, names, ["fc.w"], misshaped).table().splitlines()
    counts = {line.split()[0]: line.split()[1] for line in lines[2:6]}
    assert counts == {"matched": "3", "missing": "12", "unexpected": "1", "mis-shaped": "15"}
    # Every mis-shaped tensor is named, however many there are.
    assert [f"  {name}: {theirs} -> {ours}" for name, theirs, ours in misshaped] == lines[7:22]
    assert lines[22:] == ["missing:", "  head.* (12 tensors)", "unexpected:", "  fc.w"]


def test_table_of_a_complete_load_is_counts_alone():
    lines = LoadReport(["a"], [], [], []).table().splitlines()
    assert len(lines) == 6


def test_grouping_is_as_deep_as_the_lines_allow():
    names = ["a.x.w", "a.x.b", "a.y.w", "a.y.b", "c.w"]
    assert grouped_by_module(names, 5) == names
    assert grouped_by_module(names, 3) == ["a.x.* (2 tensors)", "a.y.* (2 tensors)", "c.w"]
    assert grouped_by_module(names, 2) == ["a.* (4 tensors)", "c.w"]
    assert grouped_by_module(names, 1) == ["a.* (4 tensors)", "... and 1 more"]
    assert grouped_by_module([]) == []


def test_names_without_modules_are_cut():
    lines = grouped_by_module([f"w{index}" for index in range(25)])
    assert lines == [*(f"w{index}" for index in range(10)), "... and 15 more"]
