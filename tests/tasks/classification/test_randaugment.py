"""RandAugment against timm's code, operation by operation and as a whole; then its statistics."""

import importlib.util
import math
import pickle
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from pvt_jax.errors import UserError
from pvt_jax.tasks.classification import randaugment
from pvt_jax.tasks.classification.randaugment import INCREASING, NOT_INCREASING, OPERATIONS, SIGNED, RandAugment

FILL = (120, 7, 201)
MAGNITUDES = (0.0, 0.3, 2.0, 2.5, 4.99, 5.0, 7.4999, 7.5, 8.7, 9.0, 9.99, 10.0)


@pytest.fixture(scope="module")
def timm() -> Any:
    """timm's auto_augment.py by its path: importing the package would import torch."""
    spec = importlib.util.find_spec("timm")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("timm is not installed (pip install --no-deps timm): its RandAugment is the oracle here")
    path = Path(spec.submodule_search_locations[0]) / "data" / "auto_augment.py"
    file_spec = importlib.util.spec_from_file_location("timm_auto_augment", path)
    assert file_spec is not None and file_spec.loader is not None
    module: Any = importlib.util.module_from_spec(file_spec)
    file_spec.loader.exec_module(module)
    posterize = module.posterize

    def posterize_to_black(image, bits_to_keep, **options):
        return posterize(image, bits_to_keep, **options) if bits_to_keep else Image.new(image.mode, image.size)

    # Pillow 13 raises at 0 bits; what earlier versions gave is the definition.
    module.NAME_TO_OP = {k: posterize_to_black if v is posterize else v for k, v in module.NAME_TO_OP.items()}
    return module


def random_image(seed: int, height: int = 0, width: int = 0) -> Image.Image:
    """Noise, or smooth, or of few colours, so that histograms, clipping and interpolation all matter."""
    rng = np.random.default_rng(seed)
    height, width = height or int(rng.integers(1, 90)), width or int(rng.integers(1, 90))
    low, high = sorted(rng.integers(0, 257, 2))
    pixels = rng.integers(low, max(high, low + 1), (height, width, 3)).astype(np.uint8)
    if seed % 3 == 1:
        pixels = np.asarray(Image.fromarray(pixels[:7, :9]).resize((width, height), Image.Resampling.BICUBIC))
    if seed % 3 == 2:
        pixels = pixels // 64 * 60
    return Image.fromarray(pixels)


def test_the_tables_hold_the_fifteen_operations_of_timm(timm):
    assert list(INCREASING) == timm._RAND_INCREASING_TRANSFORMS
    assert list(NOT_INCREASING) == timm._RAND_TRANSFORMS
    assert len(INCREASING) == 15
    assert set(OPERATIONS) == set(INCREASING) | set(NOT_INCREASING)
    assert set(OPERATIONS) >= SIGNED


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_each_operation_is_timm_pixel_for_pixel(timm, monkeypatch, name):
    draw = SimpleNamespace()
    monkeypatch.setattr(timm, "random", draw)
    for number, magnitude in enumerate((*MAGNITUDES, *np.random.default_rng(0).uniform(0, 10, 12))):
        resampling = randaugment.INTERPOLATIONS["bilinear" if number % 4 == 3 else "bicubic"]
        hparams = {"img_mean": FILL, "interpolation": resampling}
        theirs = timm.AugmentOp(name, prob=1.0, magnitude=float(magnitude), hparams=hparams)
        signs = (1, -1) if name in SIGNED else (1,)
        for sign in signs:
            draw.random = lambda sign=sign: 0.9 if sign < 0 else 0.1
            image = random_image(2 * number + (sign > 0))
            untouched = image.copy()
            expected = np.asarray(theirs(image))
            actual = OPERATIONS[name](image, sign * float(magnitude), FILL, resampling)
            assert actual.mode == "RGB" and actual.size == image.size
            np.testing.assert_array_equal(np.asarray(actual), expected, err_msg=f"{name} {sign * magnitude}")
            np.testing.assert_array_equal(np.asarray(image), np.asarray(untouched), err_msg="the argument changed")


def test_only_signed_operations_draw_a_sign_in_timm(timm, monkeypatch):
    image = random_image(1, 20, 20)
    for name in OPERATIONS:
        drawn = []
        monkeypatch.setattr(timm, "random", SimpleNamespace(random=lambda drawn=drawn: drawn.append(1) or 0.1))
        timm.AugmentOp(name, prob=1.0, magnitude=9, hparams={"img_mean": FILL, "interpolation": 3})(image)
        assert bool(drawn) == (name in SIGNED), name


@pytest.mark.parametrize(
    "policy",
    ["rand-m9-mstd0.5-inc1", "rand-m10", "rand-n4-m6-p0.8-mstd2", "rand-mstd101-inc1-p1-m7", "rand-n3-inc0-mstd1"],
)
def test_whole_policy_is_timm_when_both_draw_from_one_stream(timm, monkeypatch, policy):
    hparams = {"img_mean": FILL, "interpolation": Image.Resampling.BICUBIC}
    theirs = timm.rand_augment_transform(policy, dict(hparams))
    ours = RandAugment.parse(policy, fill=FILL)
    changed = 0
    for seed in range(120):
        rng = np.random.default_rng(seed)
        draws = SimpleNamespace(random=rng.random, gauss=rng.normal, uniform=rng.uniform)
        monkeypatch.setattr(timm, "random", draws)
        choose = SimpleNamespace(choice=lambda ops, n, rng=rng, **_: [ops[i] for i in rng.integers(15, size=n)])
        monkeypatch.setattr(timm, "np", SimpleNamespace(random=choose))
        image = random_image(seed, 40, 56)
        expected = theirs(image)
        actual = ours(image, np.random.default_rng(seed))
        np.testing.assert_array_equal(np.asarray(actual), np.asarray(expected), err_msg=f"seed {seed}")
        changed += actual.tobytes() != image.tobytes()
    assert changed > 60


def test_posterize_to_no_bits_is_black():
    image = random_image(0, 5, 6)
    black = OPERATIONS["PosterizeIncreasing"](image, 10.0, FILL, Image.Resampling.BICUBIC)
    assert black.size == image.size and not np.asarray(black).any()
    one_bit = OPERATIONS["PosterizeIncreasing"](image, 9.99, FILL, Image.Resampling.BICUBIC)
    assert set(np.unique(np.asarray(one_bit))) <= {0, 128}


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (2, 2), (3, 3), (2, 40), (31, 50)])
def test_sharpness_blurs_as_pillow_does_at_every_border(size):
    for seed in range(30):
        image = random_image(seed, *size)
        smooth = np.asarray(image.filter(ImageFilter.SMOOTH))
        np.testing.assert_array_equal(np.asarray(randaugment._sharpness(image, 0.0)), smooth)


def recorded(monkeypatch, policy: RandAugment, calls: int) -> list[list[tuple[str, float]]]:
    """What each of so many calls applies: names and magnitudes."""
    applied = []
    for name in OPERATIONS:

        def record(image, magnitude, fill, resampling, name=name):
            applied[-1].append((name, magnitude))
            return image

        monkeypatch.setitem(OPERATIONS, name, record)
    image, rng = Image.new("RGB", (4, 4)), np.random.default_rng(7)
    for _ in range(calls):
        applied.append([])
        policy(image, rng)
    return applied


def test_statistics_of_the_recipe(monkeypatch):
    calls = 6000
    applied = recorded(monkeypatch, RandAugment.parse("rand-m9-mstd0.5-inc1"), calls)
    # Two operations, each with probability a half: 0, 1 or 2 of them in shares 1/4, 1/2, 1/4.
    counts = Counter(len(names) for names in applied)
    for number, share in ((0, 0.25), (1, 0.5), (2, 0.25)):
        assert abs(counts[number] / calls - share) < 5 * math.sqrt(share * (1 - share) / calls)
    each = [operation for names in applied for operation in names]
    frequencies = Counter(name for name, _ in each)
    assert set(frequencies) == set(INCREASING)
    for name, frequency in frequencies.items():
        assert abs(frequency - len(each) / 15) < 5 * math.sqrt(len(each) / 15), name
    # Drawn with replacement: a pair repeats its operation once in fifteen.
    pairs = [names for names in applied if len(names) == 2]
    assert abs(sum(a[0] == b[0] for a, b in pairs) / len(pairs) - 1 / 15) < 5 * math.sqrt(14 / 225 / len(pairs))
    magnitudes = np.array([abs(magnitude) for _, magnitude in each])
    assert magnitudes.max() == 10.0
    assert abs(np.median(magnitudes) - 9.0) < 0.05
    assert abs((magnitudes < 8.5).mean() - 0.1587) < 0.03  # one deviation below the mean
    assert abs((magnitudes == 10.0).mean() - 0.0228) < 0.012  # two above it: clipped
    signed = np.array([magnitude for name, magnitude in each if name in SIGNED])
    assert abs((signed < 0).mean() - 0.5) < 5 * 0.5 / math.sqrt(len(signed))
    assert all(magnitude >= 0 for name, magnitude in each if name not in SIGNED)


def test_probability_magnitude_and_uniform_noise(monkeypatch):
    always = recorded(monkeypatch, RandAugment(num_ops=3, magnitude=4, magnitude_std=0, probability=1), 50)
    assert all(len(names) == 3 for names in always)
    assert {abs(magnitude) for names in always for _, magnitude in names} == {4}
    never = recorded(monkeypatch, RandAugment(probability=0), 50)
    assert not any(never)
    uniform = recorded(monkeypatch, RandAugment.parse("rand-m6-mstd101-p1"), 2000)
    magnitudes = np.array([abs(magnitude) for names in uniform for _, magnitude in names])
    np.testing.assert_allclose(np.quantile(magnitudes, [0.25, 0.5, 0.75]), [1.5, 3.0, 4.5], atol=0.2)


def test_same_seed_same_image_and_another_seed_another():
    image, policy = random_image(3, 48, 64), RandAugment(num_ops=4, probability=1)
    first = [policy(image, np.random.default_rng(seed)).tobytes() for seed in range(20)]
    again = pickle.loads(pickle.dumps(policy))
    assert first == [again(image, np.random.default_rng(seed)).tobytes() for seed in range(20)]
    assert len(set(first)) > 10


def test_parse_reads_every_option_and_takes_defaults_of_timm():
    parsed = RandAugment.parse("rand-m9-mstd0.5-inc1", fill=(1, 2, 3), interpolation="bilinear")
    assert parsed == RandAugment(2, 9.0, 0.5, 0.5, True, (1, 2, 3), "bilinear")
    assert RandAugment.parse("rand-m9-mstd0.5-inc1") == RandAugment()
    assert RandAugment.parse("rand") == RandAugment(2, 10.0, 0.0, 0.5, increasing=False)
    assert RandAugment.parse("rand-inc0-p0.25-n3-m7.5") == RandAugment(3, 7.5, 0.0, 0.25, increasing=False)
    assert RandAugment.parse("rand-mstd101").magnitude_std == math.inf


@pytest.mark.parametrize(
    "policy",
    ["v0", "augmix-m3", "randm9", "RAND-m9", "rand-", "rand-m", "rand-m-9", "rand-m9-m9", "rand-m11", "rand-mmax10"]
    + ["rand-w0", "rand-tweights", "rand-p1.5", "rand-n0", "rand-n1.5", "rand-inc2", "rand-m9-foo1", "rand-m9_mstd0.5"]
    + ["", "rand-m9 -n2", "rand-m9\n"],
)
def test_a_policy_that_cannot_be_read_is_one_clear_line(policy):
    with pytest.raises(UserError) as caught:
        RandAugment.parse(policy)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 160


@pytest.mark.parametrize(
    "options",
    [{"num_ops": 0}, {"magnitude": -1}, {"magnitude_std": -1}, {"probability": 2}, {"interpolation": "nearest"}],
)
def test_options_out_of_range_are_errors(options):
    with pytest.raises(UserError, match=r"RandAugment: .* not "):
        RandAugment(**options)
