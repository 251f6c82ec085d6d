"""Files of `torch.save` made by hand, valid and hostile, without PyTorch."""

import io
import zipfile


def text(value):
    return b"X" + len(value.encode()).to_bytes(4, "little") + value.encode()


def number(value):
    return b"\x8a\x0a" + value.to_bytes(10, "little", signed=True)


def named(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


def tuple_of(*values):
    return b"(" + b"".join(values) + b"t"


def call(module, attribute, *arguments):
    return named(module, attribute) + tuple_of(*arguments) + b"R"


def dict_of(**entries):
    return b"}(" + b"".join(text(key) + value for key, value in entries.items()) + b"u"


def storage(count, kind="FloatStorage", key="0", module="torch"):
    parts = (text("storage"), named(module, kind), text(key), text("cpu"), number(count))
    return tuple_of(*parts) + b"Q"


def tensor(count, shape, strides=None, offset=0, kind="FloatStorage", metadata=None):
    """A view of a storage that claims `count` numbers."""
    strides = [1] * len(shape) if strides is None else strides
    parts = [storage(count, kind), number(offset)]
    parts += [tuple_of(*map(number, shape)), tuple_of(*map(number, strides)), b"\x89"]
    parts += [call("collections", "OrderedDict")]
    parts += [] if metadata is None else [metadata]
    return call("torch._utils", "_rebuild_tensor_v2", *parts)


def archive(value, content=bytes(64), compression=zipfile.ZIP_STORED, byteorder=b"little"):
    """A file whose one storage has these bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as entries:
        entries.writestr("a/data.pkl", b"\x80\x02" + value + b".")
        entries.writestr("a/byteorder", byteorder)
        entries.writestr("a/data/0", content)
    return file.getvalue()


def without_archive(value, count, content=bytes(64)):
    """A file of the form before PyTorch 1.6."""
    magic = 0x1950A86A20F9469CFC6C
    parts = [number(magic), number(1001), dict_of(), value, b"](" + text("0") + b"e"]
    pickles = b"".join(b"\x80\x02" + part + b"." for part in parts)
    return pickles + count.to_bytes(8, "little") + content


NAMESPACE = named("argparse", "Namespace") + b")\x81" + dict_of(blr=b"N", epochs=number(600)) + b"b"


def checkpoint_bytes(sets, prefix="net.", args=NAMESPACE):
    """A file as JiT's save_model writes it, with all tensors in one storage."""
    arrays = [array for each in sets.values() for array in each.values()]
    count, offset, parts = sum(array.size for array in arrays), 0, {}
    for name, each in sets.items():
        entries = {}
        for key, array in each.items():
            strides = [stride // array.itemsize for stride in array.strides]
            entries[prefix + key] = tensor(count, array.shape, strides, offset)
            offset += array.size
        parts[name] = dict_of(**entries)
    others = {"optimizer": dict_of(state=b"}", param_groups=b"]"), "epoch": number(599)}
    value = dict_of(model=parts.pop("model", b"N"), **others, args=args, **parts)
    return archive(value, b"".join(array.tobytes() for array in arrays))
