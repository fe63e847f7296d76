"""All 71 outputs are as close to float64 as TensorFlow's own, and deliberately wrong networks are not."""

import numpy as np
import pytest
from reference import Mutant, forward

import fastmnv2
from fastmnv2.core.network import DEFAULT
from fastmnv2.weights.untrained import untrained


def within_bar(got, truth, tensorflow, largest=1e-4):
    """The relative L2 error is at most 5e-6 and at most twice TensorFlow's, and no difference exceeds ``largest``."""

    def relative(value):
        return np.linalg.norm(value.astype(np.float64) - truth) / np.linalg.norm(truth)

    return relative(got) <= min(2 * relative(tensorflow), 5e-6) and np.abs(got - truth).max() <= largest


def odd_variables():
    """The untrained variables, with awkward values that trained variables have."""
    variables = dict(untrained(seed=3).tensors)
    rng = np.random.RandomState(5)
    for layer in DEFAULT.layers[:-1]:
        norm = f"{layer.scope}/BatchNorm/"
        gamma, beta, variance = (variables[norm + name].copy() for name in ("gamma", "beta", "moving_variance"))
        dead = rng.choice(layer.out_channels, max(1, layer.out_channels // 16), replace=False)
        # A dead channel: no variance, and a kernel close to 0.
        variance[dead] = 1e-36
        kernel = variables[layer.weights_name].copy()
        kernel[(slice(None),) * (2 if layer.kind == "depthwise" else 3) + (dead,)] *= 1e-20
        mean = variables[norm + "moving_mean"].copy()
        mean[dead] = 1e-20
        gamma[rng.randint(layer.out_channels)] *= 4
        gamma[rng.randint(layer.out_channels)] *= -1
        beta[rng.randint(layer.out_channels)] = -3
        variables |= {
            layer.weights_name: kernel,
            norm + "gamma": gamma,
            norm + "beta": beta,
            norm + "moving_mean": mean,
            norm + "moving_variance": variance,
        }
    return variables


def negative_variables(shift):
    """The untrained variables with every beta lower by this much, so that most activations are clamped to 0."""
    variables = dict(untrained(seed=4).tensors)
    return {name: value - np.float32(shift * name.endswith("beta")) for name, value in variables.items()}


def real_variables(path):
    """The dequantised real network as variables with batch norms that change nothing but the bias."""
    from fastmnv2.weights import read

    source = read(path)
    variables = {}
    for layer in DEFAULT.layers[:-1]:
        channels = layer.out_channels
        norm = f"{layer.scope}/BatchNorm/"
        variables[layer.weights_name] = source.tensors[layer.weights_name]
        variables[norm + "gamma"] = np.ones(channels, np.float32)
        variables[norm + "beta"] = source.tensors[layer.biases_name]
        variables[norm + "moving_mean"] = np.zeros(channels, np.float32)
        variables[norm + "moving_variance"] = np.full(channels, 0.999, np.float32)
    for name in (DEFAULT.logits.weights_name, DEFAULT.logits.biases_name):
        variables[name] = source.tensors[name]
    return variables


class Case:
    """One set of variables: outputs of TensorFlow, of the float64 reference and of our model for the same images."""

    def __init__(self, folder, variables, images):
        from make_module import make_module, run_module

        self.variables, self.images = variables, images
        self.folder = make_module(folder / "module", variables)
        self.tensorflow = run_module(self.folder, images)
        self.truth = forward(variables, images)
        self.model = fastmnv2.load(self.folder)


@pytest.fixture(scope="module", params=["odd", pytest.param("real", marks=pytest.mark.slow)])
def case(request, tmp_path_factory, images):
    if request.param == "odd":
        return Case(tmp_path_factory.mktemp("odd"), odd_variables(), images)
    path = request.getfixturevalue("real_tflite")
    photos = request.getfixturevalue("photos")
    from fastmnv2.image import load_image

    pictures = [load_image(path) for path in sorted(photos.iterdir()) if path.suffix != ".md"]
    return Case(tmp_path_factory.mktemp("real"), real_variables(path), np.concatenate([pictures, images[:4]]))


def test_the_module_has_71_outputs(case):
    assert set(case.tensorflow) - {"logits"} == set(case.model.endpoints(case.images[:1]))
    assert len(case.model.endpoints(case.images[:1])) == 71


def test_every_endpoint_is_within_the_bar(case):
    for name, value in case.model.endpoints(case.images).items():
        truth, theirs = case.truth[name], case.tensorflow[name]
        # Inner maps have larger values than features, so TensorFlow's own largest error is allowed there too.
        largest = 1e-4 if name == "default" else max(1e-4, 2 * np.abs(theirs - truth).max())
        assert within_bar(value, truth, theirs, largest), name


NETWORKS = ("untrained", "odd", "negative", "deep negative", "real")


@pytest.mark.parametrize(
    ("network", "number"),
    [("negative", 6), *(pytest.param(name, 48, marks=pytest.mark.slow) for name in NETWORKS)],
)
def test_flat_colours_are_as_near_as_tensorflow(request, tmp_path, network, number):
    """On flat images float32's errors do not average out; TensorFlow's own are as large."""
    colours = np.random.RandomState(2).rand(number, 1, 1, 3).astype(np.float32)
    images = np.broadcast_to(colours, (number, 96, 96, 3)).copy()
    variables = {
        "untrained": lambda: dict(untrained().tensors),
        "odd": odd_variables,
        "negative": lambda: negative_variables(0.5),
        "deep negative": lambda: negative_variables(3),
        "real": lambda: real_variables(request.getfixturevalue("real_tflite")),
    }[network]()
    flat = Case(tmp_path, variables, images)

    def relative(value, axis=None):
        wide = value.astype(np.float64) - flat.truth["default"]
        return np.linalg.norm(wide, axis=axis) / np.linalg.norm(flat.truth["default"], axis=axis)

    ours, theirs = flat.model.embed(images), flat.tensorflow["default"]
    print(
        f"{relative(ours):.1e} {relative(theirs):.1e}, one image at most",
        relative(ours, 1).max(),
        relative(theirs, 1).max(),
    )
    assert relative(ours) <= 2 * relative(theirs)
    assert relative(ours, 1).max() <= 3e-5
    assert np.abs(ours - flat.truth["default"]).max() <= 3e-4


def test_features_are_within_the_bar_for_any_batch(case):
    for n in (1, 3, 8, len(case.images)):
        features = case.model.embed(case.images[:n])
        if n >= 8:
            assert within_bar(features, case.truth["default"][:n], case.tensorflow["default"][:n])
        assert np.abs(features - case.tensorflow["default"][:n]).max() <= 1e-4


def test_logits_and_classes(case):
    ours, truth = case.model.logits(case.images), case.truth["logits"]
    assert np.linalg.norm(ours - truth) / np.linalg.norm(truth) <= 5e-6
    indices, probabilities = case.model.classify(case.images, top=5)
    powers = np.exp(truth - truth.max(1, keepdims=True))
    softmax = powers / powers.sum(1, keepdims=True)
    want = np.argsort(-softmax, axis=1)[:, :5]
    assert (indices == want).all()
    np.testing.assert_allclose(probabilities, np.take_along_axis(softmax, want, 1), rtol=1e-4)


@pytest.mark.parametrize(
    "mutant",
    [
        Mutant(symmetric_padding=True),
        Mutant(epsilon=1e-5),
        Mutant(relu=True),
        Mutant(relu6_on_projections=True),
        Mutant(pad_before_scaling=True),
    ],
    ids=lambda mutant: next(name for name, value in vars(mutant).items() if value != getattr(Mutant(), name)),
)
def test_a_mutant_fails_the_same_bar(case, mutant):
    wrong = forward(case.variables, case.images, mutant=mutant)["default"]
    assert not within_bar(wrong, case.truth["default"], case.tensorflow["default"])


def test_the_reference_itself_is_tensorflows_network(case):
    """numpy's reference in float32 meets the limit that mutants exceed, so the reference is right."""
    single = forward(case.variables, case.images, dtype=np.float32)["default"]
    assert within_bar(single, case.truth["default"], case.tensorflow["default"])


@pytest.mark.slow
def test_keras_applications_gives_the_same(tmp_path, images):
    """keras.applications.MobileNetV2, an independent implementation, gives the same outputs."""
    from keras_model import keras_model

    variables = odd_variables()
    network = keras_model(variables)
    theirs = network.predict(images * 2 - 1, verbose=0)
    network.save_weights(tmp_path / "k.weights.h5")
    ours = fastmnv2.load(tmp_path / "k.weights.h5").embed(images)
    assert within_bar(ours, forward(variables, images)["default"], theirs)
