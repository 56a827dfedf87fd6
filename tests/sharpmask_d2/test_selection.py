import torch

from sharpmask_d2.heads import HeadOutput
from sharpmask_d2.selection import Windows, best_of_level, merge

SIZES = [(2, 3), (3, 5), (4, 7)]


def outputs(values: int) -> list[HeadOutput]:
    """Of three levels, with a row and a column that do not count and have the best scores; few
    ``values`` make many ties. An encoding tells its level and place."""
    found = []
    for level, (rows, columns) in enumerate(SIZES):
        scores = torch.full((1, 1, rows + 1, columns + 1), 100.0)
        scores[..., :rows, :columns] = torch.randint(values, (rows, columns)).float()
        ys, xs = torch.meshgrid(torch.arange(rows + 1), torch.arange(columns + 1), indexing="ij")
        encoding = torch.stack([torch.full_like(ys, level), ys, xs]).float()[None]
        found.append(HeadOutput(encoding, scores))
    return found


def select(levels: list[HeadOutput], num: int, least: float = -float("inf")) -> Windows:
    best = None
    for level, (output, size) in enumerate(zip(levels, SIZES, strict=True)):
        new = best_of_level(output, size, level, num, least)
        best = new if best is None else merge(best, new, num)
    return best


def brute_force(levels: list[HeadOutput], num: int, least: float) -> list[tuple]:
    every = [
        (-output.score_logits[0, 0, row, column].item(), level, row, column)
        for level, (output, size) in enumerate(zip(levels, SIZES, strict=True))
        for row in range(size[0])
        for column in range(size[1])
    ]
    return sorted(item for item in every if -item[0] > least)[:num]


def test_it_is_a_sort_over_all_levels() -> None:
    for values in (2, 6, 10**6):
        levels = outputs(values)
        for num in (1, 5, 20, 49, 1000):
            for least in (-float("inf"), 0.0, 3.0):
                best = select(levels, num, least)
                expected = brute_force(levels, num, least)
                rows = zip(
                    (-best.scores).tolist(),
                    best.levels.tolist(),
                    *best.cells.T.tolist(),
                    strict=True,
                )
                assert list(rows) == expected
                assert len(best) == len(expected) <= num
                own = torch.cat([best.levels[:, None], best.cells], dim=1)
                assert torch.equal(best.encodings, own.float())


def test_all_windows_are_there_when_more_are_wanted() -> None:
    assert len(select(outputs(5), 10**6)) == 6 + 15 + 28


def test_fewer_windows_are_the_first_ones() -> None:
    levels = outputs(2)
    many = select(levels, 40)
    few = select(levels, 11)
    assert torch.equal(few.levels, many.levels[:11])
    assert torch.equal(few.cells, many.cells[:11])


def test_no_window_may_be_good_enough() -> None:
    best = select(outputs(3), 10, least=1000.0)
    assert len(best) == 0
    assert best.cells.shape == (0, 2)
    assert best.encodings.shape == (0, 3)


def test_scores_of_half_precision_are_compared_in_float32() -> None:
    (output,) = outputs(4)[:1]
    half = HeadOutput(output.encoding.half(), output.score_logits.half())
    best = best_of_level(half, SIZES[0], 0, 4, -float("inf"))
    assert best.scores.dtype == torch.float32
