//! What a process waits for that should have ended.

use std::fs;

/// A line per thread: its name, its state, its system call (proc_pid_syscall(5)), where in the kernel it is; then the open files.
/// The system calls and what follows need root.
pub(crate) fn threads(pid: u32) -> String {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return format!("no process {pid}");
    };
    let read = |path: std::path::PathBuf| fs::read_to_string(path).unwrap_or_default();
    let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let files = files.filter_map(|file| fs::read_link(file.path()).ok()?.into_os_string().into_string().ok());
    let files: Vec<_> = files.filter(|file| file.starts_with('/')).collect();
    let lines = tasks.flatten().map(|task| {
        let state = read(task.path().join("status"));
        let field = |name| state.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("?").trim();
        let kernel = read(task.path().join("stack"));
        let calls = kernel.lines().filter_map(|line| line.split_whitespace().nth(1)).take(4);
        let call = read(task.path().join("syscall"));
        format!(
            "{} {} {} in {}",
            field("Name:"),
            field("State:"),
            call.trim(),
            calls.collect::<Vec<_>>().join(" < ")
        )
    });
    lines.chain([format!("open: {}", files.join(" "))]).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_thread_is_among_those_of_its_process() {
        let told = std::thread::Builder::new().name("told".into()).spawn(|| threads(std::process::id()));
        assert!(told.unwrap().join().unwrap().lines().any(|line| line.starts_with("told R")));
    }
}
