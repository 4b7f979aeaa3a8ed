"""What can go wrong, besides ValueError and TypeError for arguments that Python judges itself."""


class LoraError(RuntimeError):
    """The library refused a call, or the driver did.

    The text says what was given, what is allowed and what to do. Nothing was launched, unless
    `name` is `LORA_STATUS_DRIVER` or `LORA_STATUS_INTERNAL`.
    """

    def __init__(self, status: int, name: str, text: str, cuda_result: int = 0) -> None:
        super().__init__(f"{text} [{name}]")
        #: The number of `lora_status`.
        self.status = status
        #: Its name, such as `LORA_STATUS_STRIDE`.
        self.name = name
        #: The driver's CUresult, where it was the driver; else 0.
        self.cuda_result = cuda_result


class LibraryNotFound(ImportError):
    """`liblora_kernels.so` is nowhere, or is of another version than this package."""


class CudaError(RuntimeError):
    """A call of the CUDA driver by this package itself failed."""

    def __init__(self, call: str, result: int, text: str) -> None:
        super().__init__(f"{call} failed: {text} (CUresult {result})")
        #: The driver's CUresult.
        self.result = result
