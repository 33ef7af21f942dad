"""The text of a stand-alone network file around its graph."""

IMPORTS = ("import pathlib", "import sys", "import numpy", "import torch", "import torch.nn.functional as F")
RESERVED = frozenset(("F", "FACTS", "Model", "STATE", "WEIGHTS", "float", "load", "main", "predict", "prepare")) | {
    "numpy",
    "pathlib",
    "self",
    "sys",
    "torch",
}
"""Names that the file uses itself; no value of a network may be called so."""

FRAME = '''"""{title}

Needs torch and numpy only; the archive of the same name, .npz, must lie beside it.

    python model.py SAMPLES.npy        # samples as they are stored: [N, *input_dims], see FACTS

    import model
    network = model.load()             # a torch.nn.Module in evaluation mode; network.train() for fine-tuning
    logits = model.predict(samples)    # numpy in, numpy out
"""

{imports}

WEIGHTS = pathlib.Path(__file__).with_suffix(".npz")
FACTS = {{
{facts}
}}
# Name, shape, type, and whether it is trained, of every tensor; in the order in which the archive has them.
STATE = (
{state}
)
{functions}

class Model(torch.nn.Module):
    """The network. state_dict() has the names of the ONNX file's tensors."""

    def __init__(self):
        """Make every tensor, filled with zeros; load() gives them their values."""
        super().__init__()
        for name, shape, dtype, trained in STATE:
            *path, leaf = name.split(".")
            scope = self
            for part in path:
                scope = scope._modules.setdefault(part, torch.nn.Module())
            tensor = torch.zeros(shape, dtype=getattr(torch, dtype.removeprefix("torch.")))
            if trained:
                scope._parameters[leaf] = torch.nn.Parameter(tensor)
            else:
                scope._buffers[leaf] = tensor

    def tensor(self, name):
        """Return a tensor by its name."""
        *path, leaf = name.split(".")
        scope = self
        for part in path:
            scope = scope._modules[part]
        return scope._parameters[leaf] if leaf in scope._parameters else scope._buffers[leaf]

    def forward(self, {inputs}):
        """Return the network's output for prepared input [N, *input_dims]."""
{forward}


def load(path=WEIGHTS, device="cpu"):
    """Return the trained network on a device, in evaluation mode."""
    network = Model()
    with numpy.load(path, allow_pickle=False) as archive, torch.no_grad():
        for position, (name, shape, dtype, _) in enumerate(STATE):
            value = torch.from_numpy(archive["t%d" % position])
            if tuple(value.shape) != shape or str(value.dtype) != dtype:
                raise ValueError("%s is of another network: %s is %s" % (path, name, tuple(value.shape)))
            network.tensor(name).copy_(value)
    return network.to(device).eval()


def prepare(samples):
    """Return network input, a float32 tensor, for samples as they are stored: bytes for pictures, else numbers."""
    samples = numpy.asarray(samples)
    if FACTS.get("sample_type") == "uint8" and samples.dtype != numpy.uint8:
        raise TypeError("pictures are bytes (uint8, 0 to 255), not %s" % samples.dtype)
    x = torch.as_tensor(samples).to(torch.float32) / (255.0 if samples.dtype == numpy.uint8 else 1.0)
    rule = FACTS["preprocessing"]
    axes = tuple(range(1, x.dim()))
    if rule.get("per_image"):
        mean, deviation = x.mean(axes, keepdim=True), x.std(axes, keepdim=True, correction=0)
        return (x - mean) / deviation.clamp(min=float(numpy.prod(x.shape[1:])) ** -0.5)
    each = (1, -1) + (1,) * (x.dim() - 2)
    if rule.get("mean"):
        x = x - torch.tensor(rule["mean"]).reshape(each)
    if rule.get("std"):
        x = x / torch.tensor(rule["std"]).reshape(each)
    return x


def predict(samples, network=None):
    """Return the network's numbers for samples: logits, or targets in their own units."""
    network = network or load()
    device = next(iter(network.state_dict().values())).device
    with torch.no_grad():
        output = network(prepare(samples).to(device)).cpu().numpy()
    if FACTS.get("target_std"):
        output = output * numpy.float32(FACTS["target_std"]) + numpy.float32(FACTS["target_mean"])
    return output


def main(path):
    """Print what the network says of each sample in an .npy file."""
    samples = numpy.load(path, allow_pickle=False)
    if samples.ndim == len(FACTS["input_dims"]):
        samples = samples[:, None]  # pictures with one channel may leave it out
    names = FACTS.get("class_names")
    for index, row in enumerate(predict(samples)):
        if FACTS.get("target_std"):
            print("sample %d: %s" % (index, " ".join("%.6g" % value for value in row)))
            continue
        odds = numpy.exp(row - row.max())
        label = int(row.argmax())
        shown = names[label] if names else label
        print("sample %d: class %s (%.1f%%)" % (index, shown, 100 * odds[label] / odds.sum()))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
'''
