//! The words by which failures are known: one table a kind, from PyTorch 0.1 to today, and the runtimes, libraries,
//! kernels and schedulers around it.
//!
//! In the patterns a blank stands for any white space (with a question mark it may be missing), and case does not count.

use std::sync::LazyLock;

use regex::Regex;

use super::size::compile;

/// What a phrase speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sign {
    /// The accelerator's allocator or runtime refused.
    Gpu,
    /// A library on the accelerator refused.
    Library,
    /// The host refused, or something killed for memory.
    Host,
    /// Memory ran out, the phrase does not say which.
    Unnamed,
    /// Shared memory ran out.
    Shm,
    /// Too many open files.
    Files,
    /// A DataLoader worker died.
    Worker,
    /// The accelerator's context was broken before; allocations that fail after it are consequences.
    Broken,
}

const GPU: &[&str] = &[
    // PyTorch's native allocator, on every accelerator that it was ported to.
    r"\b(?:CUDA|HIP|ROCm|XPU|NPU|MLU|MUSA|GCU|HPU|PPU|DCU|SDAA|GPU|TPU|PrivateUse1|device|Vulkan|Metal)(?: is| ran| has run| runs| went)? out of (?:GPU |device )?memory",
    r"\bMPS backend out of memory",
    r"\bOutOfMemoryError\b",
    r"Tried to allocate \d[\d.,]* ?[KMGT]?i?B(?:ytes)?[.,]? \(?(?:GPU|NPU|XPU|MLU|MUSA|DCU) \d",
    // cudaMallocAsync.
    r"\bAllocation on device\b(?: \d+ would exceed| *$)?",
    // The runtime and the driver.
    r"\b(?:CUDA|HIP|XPU|NPU|MUSA)(?: driver| runtime)? error(?: code)?(?: ?\(\d+\)| \d+)?\s*:?\s*(?:CUDA_ERROR_|\w*error\w* )?out[ _]of[ _]memory",
    r"\bcuda runtime error \(2\)",
    r"\berror ?= ?2 ?: ?out of memory",
    r"\bError 2: out of memory",
    r"\bCUDA_ERROR_OUT_OF_MEMORY\b|\bcudaErrorMemoryAllocation\b|\bhipErrorOutOfMemory\b|\bhipErrorMemoryAllocation\b",
    r"\b(?:CUDA|HIP) failure(?: \d+)?: out of memory",
    r"\bcudaMalloc\w*[^\n]{0,60}out of memory|failed to cudaMalloc|\bhipMalloc\w*[^\n]{0,60}out of memory",
    r"\bTriton Error \[\w+\]: out of memory",
    r"NvMapMemAlloc\w*\W[^\n]{0,40}\berror 12\b",
    r"Out of memory allocating [\d,]+ bytes \(allocated so far",
    r"not enough (?:GPU |video |device |graphics ){1,2}memory",
    r"(?:GPU|device|video) memory (?:is )?exhausted",
    r"out of (?:GPU|device|video|graphics) memory",
    r"ran out of memory in memory space (?:hbm|vmem)",
    r"\bRESOURCE_EXHAUSTED\b[^\n]{0,80}(?:memory|allocat)",
    r"\bResource ?Exhausted(?:Error)?\b[^\n]{0,200}(?:\bOOM\b|out of memory|allocat)",
    r"\bOOM when allocating tensor\b[^\n]{0,300}(?:GPU|TPU|DML)",
    // Intel, Apple, Ascend, Habana, OpenCL, Vulkan.
    r"\b(?:UR_RESULT|PI|ZE_RESULT)_ERROR_(?:OUT_OF_RESOURCES|OUT_OF_DEVICE_MEMORY|MEM_OBJECT_ALLOCATION_FAILURE)",
    r"Allocation is out of device memory",
    r"\bCL_(?:OUT_OF_RESOURCES|MEM_OBJECT_ALLOCATION_FAILURE)\b|\bVK_ERROR_OUT_OF_DEVICE_MEMORY\b",
    r"kIOGPUCommandBufferCallbackErrorOutOfMemory|\bInvalid buffer size: ",
    r"\berror code is 207001\b|\bEL0004\b|\bPTA memory error\b|\baclrtMalloc\w*[^\n]{0,80}fail",
    r"PT_DEVMEM[^\n]{0,40}Allocation failed|DEVMEM allocation failed",
    r"\bPreconditionNotMet[^\n]*Out of memory error on GPU|\bOut of memory error on GPU\b",
    r"显存不足|显存溢出|GPU\s*内存不足|CUDA\s*内存不足",
    r"mémoire (?:CUDA|GPU) insuffisante|CUDA(?: hat)? (?:sin memoria|keinen Speicher|nicht genügend Speicher|メモリ不足)",
    r"\b(?:CUDA|GPU|HIP) OOM\b|\bNo executable batch size found, reached zero",
    r"\bOOM (?:during|error|encountered|detected|occurred|in forward|in backward|in all workers)\b",
    r"\bran out of (?:GPU |CUDA |device )?memory\b",
];

const LIBRARY: &[&str] = &[
    r"\b(?:CU|HIP|ROC)[A-Z]*_STATUS_(?:ALLOC_FAILED|ALLOCATION_FAILED|INSUFFICIENT_RESOURCES)\b",
    r"\bCUBLAS_STATUS_NOT_INITIALIZED\b|\bHIPBLAS_STATUS_NOT_INITIALIZED\b|\bCUSPARSE_STATUS_NOT_INITIALIZED\b",
    r"\bCUBLAS_STATUS_INTERNAL_ERROR\b[^\n]{0,40}cublasCreate",
    r"\bCUDNN_STATUS_(?:NOT_INITIALIZED|INTERNAL_ERROR)\b",
    r"\bCUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED\b",
    r"\bCUSOLVER_STATUS_(?:INTERNAL_ERROR|NOT_INITIALIZED)\b[^\n]{0,40}cusolver\w*Create",
    r"\b(?:CU|HIP)FFT_(?:ALLOC_FAILED|INTERNAL_ERROR)\b",
    r"\brocblas_status_memory_error\b|\bmiopenStatusAllocFailed\b|\bmiopenStatus\w*Memory\w*",
    r"\bMIOpen\b[^\n]{0,120}(?:out of memory|memory allocation|OutOfMemory)",
    r"Unable to find a valid cuDNN algorithm|no valid convolution algorithms available|(?:GET|FIND) was unable to find an engine",
    r"\b(?:Cuda|HIP) failure (?:\d+ )?'out of memory'",
    r"\bNCCL WARN\b[^\n]{0,160}(?:out of memory|Failed to CUDA (?:malloc|calloc|alloc))",
    r"\bNVML_SUCCESS == (?:r|DriverAPI)\b",
    r"cublas runtime error : (?:the library was not initialized|resource allocation failed|library not initialized)",
    r"\bcudnn\w*[^\n]{0,80}(?:workspace)[^\n]{0,40}(?:out of memory|not enough memory|allocation failed)",
    r"\bMAGMA\b[^\n]{0,120}(?:out of memory|memory allocation|alloc failed)|\bMAGMA_ERR_(?:DEVICE|HOST)_ALLOC\b",
    r"\bnvrtc\w*[^\n]{0,60}out of memory|\bNVRTC_ERROR_OUT_OF_MEMORY\b",
];

const HOST: &[&str] = &[
    // Allocations that were refused.
    r"DefaultCPUAllocator: (?:can'?t allocate memory|not enough memory)|\bC10 Out of Memory\b",
    r"not enough memory: you tried to allocate|Torch: unable to mmap memory|can'?t allocate memory: you tried",
    r"\bCaffe2 alloc failed|posix_memalign[^\n]{0,80}(?:fail|memory)",
    r"Unable to allocate \d[\d.]* ?[KMGTP]?i?B(?:ytes)? for an array",
    r"\b(?:_?Array|Arrow)?MemoryError\b",
    r"\bbad_alloc\b|\bbad allocation\b|\bbad array new length\b",
    r"\[Errno 12\]|\berrno ?[=:]? ?12\b|\bENOMEM\b|\bCannot allocate memory\b",
    r"\bWinError (?:8|14|1450|1455)\b|paging file is too small|页面文件太小|Auslagerungsdatei ist zu klein|fichier de pagination est insuffisant|archivo de paginación es demasiado pequeño|arquivo de paginação é muito pequeno|файл подкачки слишком мал|ページング ファイルが小さすぎる",
    r"Impossible d'allouer de la mémoire|Nicht genügend Hauptspeicher|无法分配内存|No se pudo asignar memoria|Impossibile allocare memoria|Não (?:é )?possível alocar memória",
    r"Insufficient memory\) Failed to allocate|\bOpenCV\b[^\n]{0,200}OutOfMemoryError",
    r"\bmemory allocation of \d+ bytes failed|Memory allocation still failed|\blibgomp: Out of memory|virtual memory exhausted",
    r"\bmalloc of size \d+ failed|\bmmap failed\b|\bfailed to mmap\b|\bMALLOC failed\b",
    r"\bOOM when allocating tensor\b[^\n]{0,300}\bCPU\b|\bjava\.lang\.OutOfMemoryError\b",
    r"\b(?:UR_RESULT|PI|ZE_RESULT)_ERROR_OUT_OF_HOST_MEMORY|HOST_ALLOCATION_FAILED\b",
    r"cudaHostAlloc\w*[^\n]{0,60}(?:out of memory|fail)|cudaMallocHost\w*[^\n]{0,60}(?:out of memory|fail)|Failed to CUDA host alloc",
    r"(?:system|host|CPU|RAM)[^\n]{0,12} out of (?:host |system |CPU )?memory|out of (?:host|system|CPU) (?:memory|RAM)|\bout of RAM\b",
    // The kernel, cgroups, guards.
    r"\boom[-_]kill(?:er|ed)?\b|\bOOM[- ]Killed\b|\bOOMKilled\b|\boom_reaper\b|out-of-memory handler",
    r"Out of memory: Kill(?:ed)? process|Memory cgroup out of memory|\bKilled process \d+",
    r"\bearlyoom\b[^\n]{0,60}(?:sending|killing)|low memory! at or below SIG(?:TERM|KILL)|sending SIG(?:TERM|KILL) to process \d+ [^\n]{0,60}(?:badness|VmRSS)",
    r"systemd-oomd|due to memory pressure|killed due to (?:the node running )?low (?:on )?memory|node running low on memory|node (?:was )?low on resource: ?memory",
    r"\bray\.exceptions\.OutOfMemoryError\b|workers? \([^)\n]*\) killed due to memory pressure",
    r"Container killed due to memory usage|killed by (?:the )?OOM|\bexceeding (?:physical |virtual )?memory limits?\b|memory (?:budget|limit)[^\n]{0,30}(?:Restarting|Killing|exceeded)",
    r"Memory limit (?:of [^\n]{1,20} )?exceeded|exceeded (?:its |the )?memory limit|memory limit exceeded|Exceeded memory",
    r"session crashed after using all available RAM|tried to allocate more memory than is available",
    // Schedulers.
    r"exceeded (?:job |step |virtual |resident )*memory limit|being killed[^\n]{0,20}memory|\btasks? [\d,-]+: Out Of Memory\b|\bOUT_OF_ME(?:MORY|\+)",
    r"\bTERM_MEMLIMIT\b|\bTERM_SWAP\b|job killed: v?mem|job killed after reaching LSF (?:memory|swap)|p?v?mem \d+kb exceeded limit|job has (?:exceeded|gone over) (?:its )?(?:memory|request_memory)|exceeds? (?:the )?(?:memory request|request_memory)",
    r"excessive memory usage causing the Operating System to kill",
];

const UNNAMED: &[&str] = &[
    r"(?:Error|exception|failed|fatal)\b[^\n]{0,60}\bout of memory\b",
    r"(?:failed|unable|could not|cannot|can'?t|not enough memory) (?:to )?allocate (?:\d|memory|enough|more)",
    r"\bnot enough memory\b|\binsufficient memory\b",
];

const SHM: &[&str] = &[
    r"insufficient shared memory|workers are out of shared memory|shared memory limit",
    r"unable to (?:write to|resize|allocate shared memory ?\(shm\) for) file\s+<?/?torch_",
    r"unable to allocate shared memory ?\(shm\)",
    r"unable to open shared memory object",
    r"while creating shared memory segment|Failed to (?:create|open|map) shared memory|shm_open[^\n]{0,80}fail",
    r"/dev/shm[^\n]{0,120}(?:No space left|is full|exhausted|too small)|failed to extend /dev/shm|(?:No space left|Disk quota exceeded)[^\n]{0,120}/dev/shm",
    r"\bbus error encountered in worker|killed by signal: Bus error",
];

const FILES: &[&str] = &[
    r"too many open files|\[Errno 24\]|\bEMFILE\b|\bENFILE\b",
    r"received \d+ items? of ancdata",
    r"打开的文件(?:过|太)多|Trop de fichiers ouverts|Zu viele offene Dateien|Demasiados (?:archivos|ficheros) abiertos|Слишком много открытых файлов|Troppi file aperti",
];

const WORKER: &[&str] = &[
    r"DataLoader worker \(pid\(?s?\)? ?[\d, ]*\)[^\n]{0,4}(?:exited unexpectedly|is killed by signal)",
    r"DataLoader worker[^\n]{0,40}(?:exited unexpectedly|killed by signal)",
];

const BROKEN: &[&str] = &[
    r"device-side assert triggered|\bAssertion [^\n]{1,300}? failed\b",
    r"an illegal memory access was encountered|\bcudaErrorIllegalAddress\b|misaligned address",
    r"uncorrectable ECC error|unspecified launch failure|\bXid \d+\b",
];

static TABLES: LazyLock<Vec<(Sign, Regex)>> = LazyLock::new(|| {
    [
        (Sign::Gpu, GPU),
        (Sign::Library, LIBRARY),
        (Sign::Host, HOST),
        (Sign::Unnamed, UNNAMED),
        (Sign::Shm, SHM),
        (Sign::Files, FILES),
        (Sign::Worker, WORKER),
        (Sign::Broken, BROKEN),
    ]
    .into_iter()
    .map(|(sign, patterns)| (sign, compile(&patterns.join("|"))))
    .collect()
});

/// A phrase in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hit {
    /// What it speaks of.
    pub sign: Sign,
    /// Where it begins, in bytes.
    pub start: usize,
    /// Where it ends.
    pub end: usize,
}

/// Every phrase, in the order of the text.
pub fn find(text: &str) -> Vec<Hit> {
    let mut hits: Vec<Hit> = TABLES
        .iter()
        .flat_map(|(sign, regex)| {
            regex.find_iter(text).map(|m| Hit { sign: *sign, start: m.start(), end: m.end() })
        })
        .collect();
    hits.sort_by_key(|h| (h.start, h.sign));
    hits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_phrase_of_each_kind() {
        let cases = [
            ("CUDA out\nof memory", Sign::Gpu),
            ("torch.OutOfMemoryError", Sign::Gpu),
            ("CUBLAS_STATUS_ALLOC_FAILED", Sign::Library),
            ("MemoryError", Sign::Host),
            ("fatal error: runtime: out of memory", Sign::Unnamed),
            ("unable to write to file </torch_1_2>", Sign::Shm),
            ("received 0 items of ancdata", Sign::Files),
            ("DataLoader worker (pid(s) 12, 13) exited unexpectedly", Sign::Worker),
            ("device-side assert triggered", Sign::Broken),
        ];
        for (text, sign) in cases {
            let hits = find(text);
            assert_eq!(hits.first().map(|h| h.sign), Some(sign), "{text}");
            assert_eq!(hits.len(), 1, "{text}: {hits:?}");
        }
    }

    #[test]
    fn words_that_only_look_like_one() {
        for text in ["a memory of 12 GiB", "MemoryErrors", "errno 123", "the worker exited", "zoom-killer"] {
            assert_eq!(find(text), vec![], "{text}");
        }
    }
}
