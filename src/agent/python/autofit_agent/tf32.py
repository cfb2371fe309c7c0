"""TF32, for which PyTorch has two interfaces.

The older one (`allow_tf32`) keeps both in step when it writes; once the newer one (`fp32_precision`) has been
written, the older one raises when it is read.  So the older one is used unless the script has written the
newer one.
"""


def read_tf32(torch):
    """(matrix products, convolutions, the interface that it was read from)."""
    cuda, cudnn = torch.backends.cuda, torch.backends.cudnn
    try:
        return bool(cuda.matmul.allow_tf32), bool(cudnn.allow_tf32), "torch.backends.*.allow_tf32"
    except RuntimeError:
        products, convolutions = cuda.matmul.fp32_precision, cudnn.conv.fp32_precision
        return products == "tf32", convolutions == "tf32", "torch.backends.*.fp32_precision"


def write_tf32(torch, on):
    """For matrix products and convolutions, through the interface that the script uses."""
    cuda, cudnn = torch.backends.cuda, torch.backends.cudnn
    if read_tf32(torch)[2].endswith("allow_tf32"):
        cuda.matmul.allow_tf32 = cudnn.allow_tf32 = on
        try:
            torch.get_float32_matmul_precision()
        except RuntimeError:
            # The script has set this third word for the same thing, which now says otherwise.
            torch.set_float32_matmul_precision("high" if on else "highest")
    else:
        for place in (cuda.matmul, cudnn.conv, cudnn.rnn):
            place.fp32_precision = "tf32" if on else "ieee"


def remember_tf32(torch):
    """A function that gives back what is in force now."""
    cuda, cudnn = torch.backends.cuda, torch.backends.cudnn
    if read_tf32(torch)[2].endswith("allow_tf32"):
        products, convolutions = cuda.matmul.allow_tf32, cudnn.allow_tf32
        try:
            word = torch.get_float32_matmul_precision()
        except RuntimeError:
            word = None

        def give_back():
            cuda.matmul.allow_tf32, cudnn.allow_tf32 = products, convolutions
            if word is not None:
                torch.set_float32_matmul_precision(word)
    else:
        places = (cuda.matmul, cudnn.conv, cudnn.rnn)
        words = [place.fp32_precision for place in places]

        def give_back():
            for place, word in zip(places, words):
                place.fp32_precision = word

    return give_back
