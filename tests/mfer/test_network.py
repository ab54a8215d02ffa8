"""The network's blocks against references written from the paper's equations, and properties of every size of it."""

import math

import pytest
import safetensors.torch
import torch
from torch.utils.flop_counter import FlopCounterMode

from mfer.card import ARCHITECTURES, Architecture
from mfer.convnext import ConvNeXt
from mfer.errors import ConfigError
from mfer.network import MFER, DSAttention, MultiscaleClassifier

torch.set_num_threads(1)


# references, in float64, from the equations


def linear(x, weight, bias):
    return torch.einsum("...i,oi->...o", x, weight) + bias


def gelu(x):
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def layer_norm(x, weight, bias):
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-5) * weight + bias


def conv7(x, weight, bias, depthwise):
    """Sum over the 49 taps of a zero-padded map [N,C,H,W]."""
    n, c, h, w = x.shape
    padded = torch.zeros(n, c, h + 6, w + 6, dtype=x.dtype)
    padded[:, :, 3 : 3 + h, 3 : 3 + w] = x
    out = torch.zeros_like(x)
    for dy in range(7):
        for dx in range(7):
            seen = padded[:, :, dy : dy + h, dx : dx + w]
            tap = weight[:, :, dy, dx]
            out += seen * tap[:, 0][:, None, None] if depthwise else torch.einsum("nihw,oi->nohw", seen, tap)
    return out + bias[:, None, None]


def ds_attention(x, p, depthwise):
    n, c, h, w = x.shape
    tokens = x.reshape(n, c, h * w).permute(0, 2, 1)
    inner = gelu(linear(tokens, p["key.0.weight"], p["key.0.bias"]))
    key = linear(inner, p["key.2.weight"], p["key.2.bias"]) * tokens
    local = conv7(x, p["query_conv.weight"], p["query_conv.bias"], depthwise).reshape(n, c, h * w).permute(0, 2, 1)
    query = layer_norm(gelu(local), p["query_norm.weight"], p["query_norm.bias"])
    value = linear(tokens, p["value.weight"], p["value.bias"])
    powers = torch.exp(query + key - (query + key).amax(1, keepdim=True))
    out = tokens + powers / powers.sum(1, keepdim=True) * value
    return out.permute(0, 2, 1).reshape(n, c, h, w)


def multiscale(feature, p):
    quarter = feature.shape[1] // 4
    logits = 0
    for i in range(3):
        seen = feature[:, : quarter * (2 + i)]
        hidden = gelu(linear(seen, p[f"heads.{i}.0.weight"], p[f"heads.{i}.0.bias"]))
        logits = logits + linear(hidden, p[f"heads.{i}.2.weight"], p[f"heads.{i}.2.bias"])
    return logits


def randomised(module):
    """In float64, with no parameter left at a value (0 or 1) that would hide a mistake."""
    torch.manual_seed(1)
    module = module.double().eval()
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn_like(p) * 0.3)
    return module


@pytest.mark.parametrize("depthwise", [False, True], ids=["dense", "depthwise"])
@pytest.mark.parametrize("size", [(2, 2), (5, 3), (9, 9)], ids=str)
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_ds_attention_is_that_of_the_equations(depthwise, size, training):
    block = randomised(DSAttention(16, depthwise)).train(training)
    x = torch.randn(2, 16, *size, dtype=torch.float64)
    expected = ds_attention(x, block.state_dict(), depthwise)
    torch.testing.assert_close(block(x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("depthwise", [False, True], ids=["dense", "depthwise"])
@pytest.mark.parametrize("side", [2, 3, 5])
def test_gradients_of_small_maps_in_bfloat16_are_those_of_float32(depthwise, side):
    """As in training on a CPU with bfloat16 units, where PyTorch's own are arbitrary for a kernel beyond the map."""
    torch.manual_seed(0)
    block = DSAttention(320, depthwise).train()
    x, weight = torch.randn(8, 320, side, side), block.query_conv.weight
    found = []
    for low in (True, False):
        torch.full_like(weight, float("nan"), dtype=torch.bfloat16)  # freed at once: what unset memory then holds
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            out = block(x)
        found.append(torch.autograd.grad(out.float().square().sum(), weight)[0])
    assert torch.isfinite(found[0]).all()
    assert (found[0] - found[1]).norm() < 0.1 * found[1].norm()


def test_multiscale_classifier_is_that_of_the_equations():
    block = randomised(MultiscaleClassifier(32, 7))
    feature = torch.randn(3, 32, dtype=torch.float64)
    torch.testing.assert_close(block(feature), multiscale(feature, block.state_dict()), rtol=1e-10, atol=1e-10)
    assert block.head_logits(feature).shape == (3, 3, 7)


def test_head_is_pooling_norm_and_multiscale_classifier():
    model = randomised(MFER(Architecture("mfer_atto", in_channels=1, stem="conv2")))
    maps = torch.randn(2, model.feature_dim, 3, 3, dtype=torch.float64)
    p = model.state_dict()
    pooled = layer_norm(maps.sum((2, 3)) / 9, p["norm.weight"], p["norm.bias"])
    expected = multiscale(pooled, model.classifier.state_dict())
    torch.testing.assert_close(model.pool(maps), pooled, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(model.forward_head(maps), expected, rtol=1e-10, atol=1e-10)


def test_attention_follows_the_last_two_stages():
    model = randomised(MFER(Architecture("mfer_atto", in_channels=1, stem="conv2", layer_scale=1.0)))
    x = torch.randn(1, 1, 32, 32, dtype=torch.float64)
    maps = model.stages[1](model.stages[0](model.stem(x)))
    for stage in (2, 3):
        maps = ds_attention(model.stages[stage](maps), model.attention[str(stage)].state_dict(), False)
    torch.testing.assert_close(model.forward_features(x), maps, rtol=1e-9, atol=1e-9)


def test_base_has_the_published_size_and_cost():
    with torch.device("meta"):
        model = MFER(Architecture("mfer_base", n_classes=7)).eval()
        with FlopCounterMode(display=False) as counted:
            model(torch.empty(1, 3, 224, 224))
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(155.4, abs=0.05)
    assert counted.get_total_flops() / 2 / 1e9 == pytest.approx(20.5, abs=0.05)


# properties of every network

EVERY = [
    ("mfer_atto", "depthwise", "conv2"),
    ("mfer_atto", "dense", "patch4"),
    ("mfer_atto", "none", "conv2"),
    ("mfer_femto", "depthwise", "patch4"),
    *(
        pytest.param(choice, marks=pytest.mark.full)
        for choice in (
            ("mfer_atto", "dense", "conv2"),
            ("mfer_atto", "none", "patch4"),
            ("mfer_pico", "none", "patch4"),
            ("mfer_nano", "depthwise", "patch4"),
            ("mfer_tiny", "depthwise", "conv2"),
        )
    ),
    pytest.param(("mfer_base", "dense", "patch4"), marks=pytest.mark.full),
]


@pytest.fixture(scope="module", params=EVERY, ids=lambda choice: "-".join(choice))
def model(request):
    name, ds, stem = request.param
    torch.manual_seed(0)
    return MFER(Architecture(name, in_channels=1, ds=ds, stem=stem, layer_scale=1.0))


@pytest.fixture(scope="module")
def x(model):
    side = 64 if model.architecture.stem == "patch4" else 32  # 2x2 positions are left for the last attention
    return torch.randn(3, 1, side, side, generator=torch.Generator().manual_seed(0))


def test_output_is_finite_and_every_parameter_gets_a_gradient(model, x):
    model.train()
    model.zero_grad()
    logits = model.classifier.head_logits(model.embed(x))
    (logits * torch.randn_like(logits)).sum().backward()
    assert logits.shape == (3, 3, 8)
    assert logits.isfinite().all()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert p.grad.isfinite().all(), name
        # The softmax over positions does not see what is added to all of them.
        assert p.grad.abs().sum() > 0 or name.endswith("query_norm.bias"), name
    model.zero_grad()


@torch.no_grad()
def test_batch_equals_its_singles(model, x):
    model.eval()
    singles = torch.cat([model(face[None]) for face in x])
    torch.testing.assert_close(model(x), singles, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_training_and_evaluation_agree_without_drop_path(model, x):
    evaluated = model.eval()(x)
    torch.testing.assert_close(model.train()(x), evaluated, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_forward_is_head_of_features(model, x):
    model.eval()
    maps = model.forward_features(x)
    assert maps.shape == (3, model.feature_dim, 2, 2)
    torch.testing.assert_close(model.forward_head(maps), model(x), rtol=0, atol=0)
    torch.testing.assert_close(model.pool(maps), model.embed(x), rtol=0, atol=0)


@torch.no_grad()
def test_saved_and_loaded_network_gives_the_same(model, x):
    stored = safetensors.torch.save({k: v.contiguous() for k, v in model.state_dict().items()})
    with torch.device("meta"):
        other = MFER(Architecture.from_dict(model.architecture.to_dict()))
    other.load_state_dict(safetensors.torch.load(stored), strict=True, assign=True)
    torch.testing.assert_close(other.eval()(x), model.eval()(x), rtol=0, atol=0)


# choices


@torch.no_grad()
def test_single_classifier_of_the_ablation_has_the_same_interface():
    model = MFER(Architecture("mfer_atto", in_channels=1, stem="conv2", multiscale=False, n_classes=7)).eval()
    x = torch.randn(2, 1, 32, 32)
    feature = model.embed(x)
    assert model.classifier.head_logits(feature).shape == (1, 2, 7)
    torch.testing.assert_close(model.classifier.head_logits(feature)[0], model(x))


def test_drop_path_acts_in_training_only():
    torch.manual_seed(0)
    model = MFER(Architecture("mfer_atto", in_channels=1, stem="conv2", layer_scale=1.0, drop_path=0.5))
    x = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        assert not torch.equal(model.train()(x), model(x))
        assert torch.equal(model.eval()(x), model(x))


@pytest.mark.parametrize(
    ("setting", "value"), [("name", "mfer_huge"), ("ds", "sparse"), ("stem", "conv9"), ("in_channels", 4)]
)
def test_unknown_architecture_is_refused_with_what_is_allowed(setting, value):
    with pytest.raises(ConfigError, match=f"{setting} is {value!r}; allowed: "):
        Architecture(**{setting: value})


def test_unknown_architecture_setting_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"\['width'\]; known: .*'layer_scale'"):
        Architecture.from_dict({"width": 3})
    assert len(ARCHITECTURES) == 6


def test_backbone_is_timm_s_convnext_with_its_names_and_its_random_numbers():
    timm = pytest.importorskip("timm")
    depths, widths = ARCHITECTURES["mfer_atto"]
    ours = ConvNeXt(1, depths, widths, layer_scale=1e-6, drop_path=0.3)
    theirs = timm.create_model("convnext_atto", num_classes=0, in_chans=1, drop_path_rate=0.3, conv_mlp=False)
    torch.manual_seed(0)
    weights = {k: torch.randn_like(v) / 10 for k, v in theirs.state_dict().items() if not k.startswith("head.")}
    ours.load_state_dict(weights)
    theirs.load_state_dict(weights, strict=False)
    x = torch.randn(2, 1, 64, 64)
    for training in (False, True):
        found = []
        for net in (ours.train(training), theirs.train(training)):
            torch.manual_seed(1)
            found.append(net(x) if net is ours else net.forward_features(x))
        torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)
    assert found[0].shape == (2, widths[-1], 2, 2)


def test_mirror_model_reads_a_face_and_its_mirror_image_alike_and_trains_as_any_other():
    torch.manual_seed(0)
    plain = MFER(Architecture("mfer_atto", in_channels=1, ds="depthwise", stem="conv2", layer_scale=1.0)).eval()
    mirror = MFER(Architecture("mfer_atto", in_channels=1, ds="depthwise", stem="conv2", layer_scale=1.0, mirror=True))
    mirror.load_state_dict(plain.state_dict())
    x = torch.randn(3, 1, 40, 40)
    torch.testing.assert_close(mirror.train()(x), plain.train()(x))
    mirror.eval(), plain.eval()
    with torch.no_grad():
        logits, features = mirror.read(x)
        expected = (plain(x) + plain(x.flip(3))) / 2
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(mirror(x.flip(3)), expected, rtol=1e-4, atol=1e-5)
        assert features.shape == (3, plain.feature_dim)
        assert not torch.allclose(plain(x), expected, atol=1e-3)
