use super::*;

fn message(file: &str) -> String {
    let error = read(file).unwrap_err();
    assert_eq!(error.downcast_ref::<Exit>().map(|e| e.status), Some(USAGE));
    error.to_string()
}

#[test]
fn one_clear_message_where_there_is_nothing_to_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_string_lossy().into_owned()
    };
    assert!(message("/nonexistent/log").starts_with("there is no file `/nonexistent/log`"));
    assert!(message(&path("empty", b" \n\n")).contains("is empty"));
    assert!(message(&path("image", &(0..=255).cycle().take(9999).collect::<Vec<u8>>())).contains("not text"));
}

#[test]
fn of_a_long_output_both_ends_are_read() {
    let mut bytes = b"front".to_vec();
    bytes.resize(FRONT + BACK + 1000, b'x');
    bytes.extend(b"back");
    let read = ends(&bytes[..]).unwrap();
    assert!(read.starts_with(b"front") && read.ends_with(b"back"));
    assert_eq!(read.len(), FRONT + BACK + 1);
}

#[test]
fn the_text_for_people() {
    let log = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity \
               of 11.00 GiB of which 0.50 GiB is free. Of the allocated memory 9.00 GiB is allocated by PyTorch, \
               and 1.25 GiB is reserved by PyTorch but unallocated.";
    insta::assert_snapshot!(describe(&read_failure(log, None)), @r#"
    accelerator out of memory (gpu_oom)
      Accelerator 0 could not give another 2.00 GiB; it has 11.0 GiB, 512 MiB free; PyTorch itself holds 1.25 GiB unused, in pieces
      read from: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 11.00 GiB of which 0.50 GiB is free. Of the allocated memory 9.00 GiB is allocated by PyTorch, and 1.25 GiB is reserved by PyTorch but unallocated.

      device                   0
      requested                2.00 GiB
      total or limit           11.0 GiB
      free                     512 MiB
      allocated by PyTorch     9.00 GiB
      reserved, not allocated  1.25 GiB
      fragmented: what is reserved but unused is at least half of the request

    What to try, in this order:
      1. allocator=expandable_segments:True: reserved memory that is in pieces becomes usable; costs nothing
      2. empty_cache=true: what training left in the cache is given back before evaluation and saving, which ask for other sizes
      3. accumulation=2, then 4: micro-batches at the same effective batch; activations shrink with it, training does not change
      4. amp=bf16, or fp16 on devices without it: activations take half the memory and often less time; losses are compared with the baseline's
      5. checkpoint=selective, then alternate, then all: activations are computed again in the backward pass; up to a third more computing
      6. optimizer=fused: the update works in place; foreach makes copies as large as the parameters
      7. offload=optimizer, then activations: they wait in the host's memory; slow, so it comes last
      8. a smaller effective batch (--batch lower): another training run, so only when asked for
      9. `autofit -- COMMAND` tries these in order, each with a real launch

    One of them alone is measured by
      autofit try --set allocator=expandable_segments:True -- COMMAND
    "#);
}

#[test]
fn json_begins_with_its_version() {
    let failure = read_failure("MemoryError", None);
    let report = Report::of(&failure);
    let json = serde_json::to_string(&report).unwrap();
    assert!(json.contains(r#""rungs":[{"num_workers":2},{"prefetch_factor":1},"#), "{json}");
    assert!(
        json.starts_with(r#"{"version":1,"kind":"host_oom","fragmentation":null,"fields":{},"cause":"#),
        "{json}"
    );
}

/// What is printed of an output that is this line.
fn printed(log: &str) -> String {
    describe(&read_failure(log, None))
}

#[test]
fn device_memory_by_a_library() {
    insta::assert_snapshot!(printed("RuntimeError: cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), @r#"
    accelerator out of memory, said by a library (gpu_oom_library)
      A library on the accelerator could not get the memory it needs (context, workspace or handle), although it says so in its own words
      read from: RuntimeError: cuDNN error: CUDNN_STATUS_ALLOC_FAILED

    What to try, in this order:
      1. leave memory for libraries: --memory-cap some 10 % below the device's size makes the allocator stop earlier
      2. end other processes on the device
      3. cudnn_benchmark=false: the search for the fastest convolution takes large workspaces
      4. accumulation=2, then 4: micro-batches at the same effective batch; activations shrink with it, training does not change
      5. amp=bf16, or fp16 on devices without it: activations take half the memory and often less time; losses are compared with the baseline's
      6. checkpoint=selective, then alternate, then all: activations are computed again in the backward pass; up to a third more computing
      7. `autofit -- COMMAND` tries these in order, each with a real launch

    One of them alone is measured by
      autofit try --set cudnn_benchmark=false -- COMMAND
    "#);
}

#[test]
fn host_memory() {
    let log = "RuntimeError: [enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: \
               you tried to allocate 2147483648 bytes. Error code 12 (Cannot allocate memory)";
    insta::assert_snapshot!(printed(log), @r#"
    host out of memory (host_oom)
      The host could not give another 2.00 GiB of memory
      read from: RuntimeError: [enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 2147483648 bytes. Error code 12 (Cannot allocate memory)

      requested  2.00 GiB

    What to try, in this order:
      1. num_workers=2, then 0: each worker is a process of its own with its batches; with 0 an error of the data set is shown as it is
      2. prefetch_factor=1: a worker keeps one batch ready instead of two
      3. persistent_workers=false: workers end with their epoch, and what they gathered with them
      4. pin_memory=false: page-locked batches can neither be swapped nor reclaimed
      5. malloc=trim: freed memory goes back to the system at once
      6. accumulation=2, then 4: where training runs on the processor its activations are host memory, and shrink with the micro-batch
      7. checkpoint=selective, then alternate, then all: on the processor likewise; activations are computed again
      8. a higher limit of the job or the container
      9. `autofit -- COMMAND` tries these in order, each with a real launch

    One of them alone is measured by
      autofit try --set num_workers=2 -- COMMAND
    "#);
}

#[test]
fn shared_memory() {
    let log = "RuntimeError: DataLoader worker (pid 4242) is killed by signal: Bus error. It is possible that \
               dataloader's workers are out of shared memory. Please try to raise your shared memory limit.";
    insta::assert_snapshot!(printed(log), @r#"
    shared memory full (shm_oom)
      Shared memory (/dev/shm) ran out; DataLoader workers hand their batches over through it
      read from: RuntimeError: DataLoader worker (pid 4242) is killed by signal: Bus error. It is possible that dataloader's workers are out of shared memory. Please try to raise your shared memory limit.

      signal  SIGBUS

    What to try, in this order:
      1. prefetch_factor=1: a worker keeps one batch ready instead of two
      2. num_workers=2, then 0: each worker is a process of its own with its batches; with 0 an error of the data set is shown as it is
      3. a larger /dev/shm: `docker run --shm-size=8g` or --ipc=host; in Kubernetes an emptyDir with medium: Memory
      4. torch.multiprocessing.set_sharing_strategy('file_system') where it cannot be made larger

    One of them alone is measured by
      autofit try --set prefetch_factor=1 -- COMMAND
    "#);
}

#[test]
fn a_worker_that_was_killed() {
    let log = "RuntimeError: DataLoader worker (pid 4242) is killed by signal: Killed.";
    insta::assert_snapshot!(printed(log), @r#"
    data loader worker died (worker_killed)
      A DataLoader worker died and the text does not say of what; the usual cause is host memory
      read from: RuntimeError: DataLoader worker (pid 4242) is killed by signal: Killed.

      signal  SIGKILL

    What to try, in this order:
      1. look for `oom-kill` in `dmesg` or in the scheduler's report
      2. num_workers=2, then 0: each worker is a process of its own with its batches; with 0 an error of the data set is shown as it is
      3. prefetch_factor=1: a worker keeps one batch ready instead of two
      4. persistent_workers=false: workers end with their epoch, and what they gathered with them

    One of them alone is measured by
      autofit try --set num_workers=2 -- COMMAND
    "#);
}

#[test]
fn open_files() {
    insta::assert_snapshot!(printed("OSError: [Errno 24] Too many open files"), @r#"
    too many open files (fd_limit)
      Too many files are open; tensors that workers hand over each hold one
      read from: OSError: [Errno 24] Too many open files

    What to try, in this order:
      1. a higher limit: `ulimit -n 65536` before the start (systemd: LimitNOFILE)
      2. prefetch_factor=1: a worker keeps one batch ready instead of two
      3. num_workers=2, then 0: each worker is a process of its own with its batches; with 0 an error of the data set is shown as it is
      4. torch.multiprocessing.set_sharing_strategy('file_system')

    One of them alone is measured by
      autofit try --set prefetch_factor=1 -- COMMAND
    "#);
}

#[test]
fn not_memory() {
    insta::assert_snapshot!(printed("ModuleNotFoundError: No module named 'torchvision'"), @r#"
    not memory (not_memory)
      Not a lack of memory: ModuleNotFoundError: No module named 'torchvision'
      read from: ModuleNotFoundError: No module named 'torchvision'
    "#);
}
