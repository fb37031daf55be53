"""Partners and alphas."""

from __future__ import annotations

import numpy as np
import pytest

from histogen.diffusion.pairing import choose_partners, draw_alphas, nearest_others, tile_seeds
from histogen.diffusion.settings import AlphaSettings
from histogen.errors import ConfigError
from histogen.seeds import derive_seed


@pytest.mark.parametrize("num_tiles", [2, 3, 4, 5, 101, 1000])
def test_matching_is_an_involution_but_for_one_ring_of_three(num_tiles: int) -> None:
    partner = choose_partners("matching", num_tiles, seed=3)
    everyone = np.arange(num_tiles)
    assert not (partner == everyone).any()
    np.testing.assert_array_equal(np.sort(partner), everyone)  # each is someone's partner exactly once
    odd_ones = everyone[partner[partner] != everyone]
    assert len(odd_ones) == (3 if num_tiles % 2 else 0)
    np.testing.assert_array_equal(partner[partner[partner[odd_ones]]], odd_ones)


def test_matching_is_uniform() -> None:
    counts = np.zeros((4, 4))
    for seed in range(600):
        partner = choose_partners("matching", 4, seed=seed)
        counts[np.arange(4), partner] += 1
    off_diagonal = counts[~np.eye(4, dtype=bool)]
    assert off_diagonal.min() > 150  # 200 expected
    assert np.diag(counts).sum() == 0


def test_arbitrary_partners_are_any_other_tile() -> None:
    partner = choose_partners("arbitrary", 5000, seed=0)
    assert not (partner == np.arange(5000)).any()
    assert partner.min() < 10
    assert partner.max() > 4990
    assert len(np.unique(partner)) < 4000  # independent draws repeat


def test_neighbours_against_brute_force() -> None:
    embeddings = np.random.default_rng(0).normal(size=(300, 6)).astype(np.float32)
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -np.inf)
    expected = np.argsort(-similarity, axis=1)[:, :4]
    np.testing.assert_array_equal(nearest_others(embeddings, 4, chunk=77), expected)
    partner = choose_partners("neighbours", 300, seed=1, embeddings=embeddings, nearest=4)
    assert all(partner[i] in expected[i] for i in range(300))


def test_one_tile_has_no_partner() -> None:
    with pytest.raises(ConfigError, match="no partner"):
        choose_partners("matching", 1, seed=0)


def test_alpha_follows_its_law_and_depends_on_the_tile_alone() -> None:
    drawn = draw_alphas(AlphaSettings(), 0, [f"s:{i}" for i in range(4000)], 0)
    assert drawn.min() >= 0.3
    assert drawn.max() <= 0.7
    quantiles = np.quantile(drawn, [0.25, 0.5, 0.75])
    np.testing.assert_allclose(quantiles, [0.4, 0.5, 0.6], atol=0.015)
    assert draw_alphas(AlphaSettings(), 0, ["s:5"], 0) == drawn[5]
    assert draw_alphas(AlphaSettings(), 0, ["s:5"], 1) != drawn[5]
    assert draw_alphas(AlphaSettings(law="fixed", value=0.25), 9, ["s:5"], 3) == 0.25
    share = derive_seed(0, "alpha", "s:7", 0) / 2**63
    assert drawn[7] == np.float32(AlphaSettings().low + (AlphaSettings().high - AlphaSettings().low) * share)


def test_the_seed_of_a_tile_is_what_was_always_derived_for_it() -> None:
    names = ["s:0", "s:1", "other slide:70000", "naïve:3"]
    for kind, copy in (("generative", 0), ("interpolated", 3)):
        expected = [derive_seed(7, "tile", kind, name, copy) for name in names]
        assert tile_seeds(7, kind, names, copy).tolist() == expected
    assert tile_seeds(7, "generative", [], 0).tolist() == []
