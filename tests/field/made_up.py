"""Made-up data in the formats that public scripts read.  Every recipe is `function(folder, *arguments)`.

The content is noise from a fixed seed: it is for running the scripts, not for learning anything.
"""

import gzip
import pickle
import struct

import numpy

WORDS = "the of a model learns from data and gives what it saw in each step of its run".split()  # noqa: SIM905


def mnist(folder, images=4096, tests=1000):
    """The four unpacked files of MNIST, where torchvision looks for them."""
    random = numpy.random.default_rng(0)
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for name, count in (("train", images), ("t10k", tests)):
        pixels = random.integers(0, 256, (count, 28, 28), numpy.uint8)
        labels = (numpy.arange(count) % 10).astype(numpy.uint8)
        for kind, head, content in (
            ("images-idx3", struct.pack(">4i", 0x803, count, 28, 28), pixels),
            ("labels-idx1", struct.pack(">2i", 0x801, count), labels),
        ):
            (raw / f"{name}-{kind}-ubyte").write_bytes(head + content.tobytes())


def cora(folder, nodes=1600, words=300, edges=4000):
    """A citation graph as `cora.content` and `cora.cites`."""
    random = numpy.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    present = random.random((nodes, words)) < 0.02
    present[:, 0] = True  # rows are divided by their sum
    lines = (
        f"{node} {' '.join('1' if word else '0' for word in row)} subject{node % 7}"
        for node, row in enumerate(present)
    )
    (folder / "cora.content").write_text("\n".join(lines) + "\n")
    pairs = random.integers(0, nodes, (edges, 2))
    (folder / "cora.cites").write_text("".join(f"{a} {b}\n" for a, b in pairs))


def wikitext(folder, lines=600):
    """`train.txt`, `valid.txt` and `test.txt` of words."""
    random = numpy.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for name, count in (("train", lines), ("valid", lines // 8), ("test", lines // 8)):
        rows = (" ".join(random.choice(WORDS, 20)) for _ in range(count))
        (folder / f"{name}.txt").write_text("\n".join(rows) + "\n")


def text(path, lines=2000):
    """One file of words, a line each."""
    random = numpy.random.default_rng(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    made = ("".join(random.choice(list("abcdefghijklmno"), random.integers(3, 9))) for _ in range(lines))
    path.write_text("\n".join(made) + "\n")


def shakespeare(path, lines=600):
    """Lines of words, with the ones that minGPT's character model goes on from."""
    random = numpy.random.default_rng(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = (" ".join(random.choice(WORDS, 12)) for _ in range(lines))
    path.write_text("O God, O God!\n" + "\n".join(rows) + "\n")


def enwik8(path, size=95_000_000):
    """95 million bytes, most of them the same, so that they pack well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = numpy.random.default_rng(0).integers(32, 127, 1 << 16, numpy.uint8).tobytes()
    with gzip.open(path, "wb", 1) as packed:
        for _ in range(size // len(noise) + 1):
            packed.write(noise)


def token_bins(folder, tokens=200_000, vocabulary=65):
    """`train.bin` and `val.bin` of 16-bit tokens, and the `meta.pkl` that nanoGPT reads."""
    random = numpy.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for name, count in (("train", tokens), ("val", tokens // 10)):
        random.integers(0, vocabulary, count, numpy.uint16).tofile(folder / f"{name}.bin")
    characters = [chr(32 + i) for i in range(vocabulary)]
    meta = {
        "vocab_size": vocabulary,
        "itos": dict(enumerate(characters)),
        "stoi": {c: i for i, c in enumerate(characters)},
    }
    (folder / "meta.pkl").write_bytes(pickle.dumps(meta))


def token_shards(folder, shards=2, tokens=100_000, vocabulary=4000):
    """`*.bin` of 16-bit tokens, as llama2.c's tinystories reads them."""
    random = numpy.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(shards):
        random.integers(3, vocabulary, tokens, numpy.uint16).tofile(folder / f"data{number:02}.bin")


def cifar10(folder, images=1000):
    """The pickled batches of CIFAR-10, where torchvision looks for them."""
    random = numpy.random.default_rng(0)
    base = folder / "cifar-10-batches-py"
    base.mkdir(parents=True, exist_ok=True)
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        count = images // 5
        batch = {
            "data": random.integers(0, 256, (count, 3072), numpy.uint8),
            "labels": [i % 10 for i in range(count)],
        }
        (base / name).write_bytes(pickle.dumps(batch))
    names = {"label_names": [str(i) for i in range(10)]}
    (base / "batches.meta").write_bytes(pickle.dumps(names))


def stl10(folder, images=64):
    """The unlabelled images of STL-10."""
    random = numpy.random.default_rng(0)
    base = folder / "stl10_binary"
    base.mkdir(parents=True, exist_ok=True)
    for name in ("unlabeled", "train", "test"):
        random.integers(0, 256, (images, 3, 96, 96), numpy.uint8).tofile(base / f"{name}_X.bin")
        (1 + numpy.arange(images) % 10).astype(numpy.uint8).tofile(base / f"{name}_y.bin")
    (base / "class_names.txt").write_text("\n".join(f"class{i}" for i in range(10)) + "\n")
    (base / "fold_indices.txt").write_text("0\n" * 10)


def images(folder, count=64, size=64, classes=0, mode="RGB", extension="png"):
    """Pictures; in one folder a class where `classes` is not 0."""
    from PIL import Image

    random = numpy.random.default_rng(0)
    shape = (size, size, 3) if mode == "RGB" else (size, size)
    for i in range(count):
        place = folder / f"class{i % classes}" if classes else folder
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, shape, numpy.uint8)).save(place / f"{i:04}.{extension}")


def masks(folder, count=16, size=64, suffix=""):
    """Grey pictures of two classes (0 and 1), named as `images` names its own."""
    from PIL import Image

    random = numpy.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        pixels = random.integers(0, 2, (size, size), numpy.uint8)
        Image.fromarray(pixels).save(folder / f"{i:04}{suffix}.png")


def sine_waves(path, waves=40, length=200):
    """`traindata.pt` of pytorch/examples time_sequence_prediction, without running its generator."""
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    start = numpy.random.default_rng(0).integers(-80, 80, (waves, 1))
    data = numpy.sin((numpy.arange(length) + start) / 20.0).astype("float64")
    torch.save(data, path)


def bsds300(folder, count=48, size=120):
    """The pictures that pytorch/examples super_resolution trains on."""
    for part in ("train", "test"):
        images(folder / "images" / part, count, size, extension="jpg")


def bert(folder, layers=2, width=32, vocabulary=400):
    """A tiny BERT with its tokenizer, as `from_pretrained` of a folder reads it."""
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [chr(c) for c in range(97, 123)]
    words = special + letters + ["##" + c for c in letters] + list(dict.fromkeys(WORDS))
    (folder / "vocab.txt").write_text("\n".join(dict.fromkeys(words)) + "\n")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=2 * width,
    )
    BertForSequenceClassification(config).save_pretrained(folder)


def gpt2(folder, layers=2, width=32, vocabulary=300):
    """A tiny GPT-2 with a byte-level tokenizer."""
    import json

    from transformers import GPT2Config, GPT2LMHeadModel

    folder.mkdir(parents=True, exist_ok=True)
    GPT2LMHeadModel(
        GPT2Config(vocab_size=vocabulary, n_positions=128, n_embd=width, n_layer=layers, n_head=2)
    ).save_pretrained(folder)
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(alphabet + ["<|endoftext|>"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"})
    )


def accuracy_metric(folder):
    """A metric for `evaluate.load(folder)`, which otherwise comes from the hub."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{folder.name}.py").write_text(
        "import datasets\nimport evaluate\n"
        "class Accuracy(evaluate.Metric):\n"
        "    def _info(self):\n"
        "        number = datasets.Value('int64')\n"
        "        return evaluate.MetricInfo(description='', citation='', inputs_description='',\n"
        "            features=datasets.Features({'predictions': number, 'references': number}))\n"
        "    def _compute(self, predictions, references):\n"
        "        same = [p == r for p, r in zip(predictions, references)]\n"
        "        return {'accuracy': sum(same) / len(same)}\n"
    )
