//! What a handler file is, before it is loaded: inspected in the order the handler ABI gives, so that each mistake
//! gets its own message. Reads the file, loads nothing.

use std::fmt::Write as _;
use std::path::Path;

use nuclio_handler::abi;
use object::elf;
use object::read::elf::{ElfFile64, FileHeader as _, ProgramHeader as _, Sym as _};

use super::HandlerForm;
use crate::runtime::StartError;

/// What this processor can load.
#[derive(Debug, Clone, Copy)]
pub(super) struct Processor {
    machine: u16,
    /// The C library is musl; otherwise glibc.
    musl: bool,
    /// Linked statically: there is no loader.
    is_static: bool,
}

/// This one.
pub(super) const PROCESSOR: Processor = Processor {
    machine: if cfg!(target_arch = "aarch64") { elf::EM_AARCH64.0 } else { elf::EM_X86_64.0 },
    musl: cfg!(target_env = "musl"),
    is_static: cfg!(target_feature = "crt-static"),
};

/// What a file says about itself.
#[derive(Debug, Default)]
struct Facts {
    has_interpreter: bool,
    is_fixed_executable: bool,
    is_pie: bool,
    has_version: bool,
    has_entry: bool,
    has_go_note: bool,
    has_static_tls: bool,
    needed: Vec<String>,
}

/// What a handler's file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// To be loaded.
    Library,
    /// To be started.
    Executable,
}

/// `Ok`: the file is a handler library that `processor` can load, or a program for its machine.
pub(super) fn check(path: &Path, form: HandlerForm, processor: Processor) -> Result<Kind, StartError> {
    let file = path.display();
    let bytes = std::fs::read(path).map_err(|error| {
        StartError::new(format!("failed to read {file}: {error}"), "make it a readable file")
    })?;
    check_header(path, &bytes, processor)?;
    let facts = inspect(&bytes).map_err(|error| {
        StartError::new(format!("{file} is a damaged ELF file ({error})"), "copy or build it again")
    })?;
    match (form, facts.is_executable()) {
        (HandlerForm::Auto | HandlerForm::Executable, true) => return Ok(Kind::Executable),
        (HandlerForm::Library, true) => {
            let found = format!("{file} is an executable but handlerForm asks for a library");
            return Err(StartError::new(found, "set handlerForm to auto or executable"));
        }
        (HandlerForm::Executable, false) => {
            let found = format!("{file} is a shared library but handlerForm asks for an executable");
            return Err(StartError::new(found, "set handlerForm to auto or library"));
        }
        (HandlerForm::Auto | HandlerForm::Library, false) => {}
    }
    check_symbols(path, &facts)?;
    check_loadable(path, &facts, processor)?;
    Ok(Kind::Library)
}

impl Facts {
    fn is_library(&self) -> bool {
        self.has_version && self.has_entry
    }

    fn is_executable(&self) -> bool {
        self.has_interpreter || self.is_fixed_executable || self.is_pie && !self.is_library()
    }
}

/// Class, byte order and machine.
fn check_header(path: &Path, bytes: &[u8], processor: Processor) -> Result<(), StartError> {
    let file = path.display();
    let wanted = format!(
        "build it as a 64-bit little-endian {} library or executable",
        machine_name(processor.machine)
    );
    let refuse = |what: String| Err(StartError::new(format!("{file} is {what}"), wanted.as_str()));
    match bytes {
        [] => return refuse("empty".into()),
        [b'#', b'!', ..] => return refuse("a script, no compiled handler".into()),
        [0x7f, b'E', b'L', b'F', ..] => {}
        _ => return refuse("no ELF file".into()),
    }
    let Some(head) = bytes.get(..20) else { return refuse("a damaged ELF file (its header is cut)".into()) };
    let machine = match head[5] {
        1 => u16::from_le_bytes([head[18], head[19]]),
        _ => u16::from_be_bytes([head[18], head[19]]),
    };
    if head[4] != 2 || head[5] != 1 || machine != processor.machine {
        let class = if head[4] == 2 { "64-bit" } else { "32-bit" };
        let order = if head[5] == 1 { "little-endian" } else { "big-endian" };
        return refuse(format!("built for {class} {order} {}", machine_name(machine)));
    }
    Ok(())
}

fn machine_name(machine: u16) -> String {
    match elf::Machine(machine) {
        elf::EM_X86_64 => "x86-64".into(),
        elf::EM_AARCH64 => "AArch64".into(),
        elf::EM_386 => "x86".into(),
        elf::EM_ARM => "ARM".into(),
        elf::EM_RISCV => "RISC-V".into(),
        elf::EM_PPC64 => "POWER".into(),
        elf::EM_S390 => "S/390".into(),
        _ => format!("machine {machine}"),
    }
}

/// Reads what the later checks ask about.
fn inspect(bytes: &[u8]) -> object::read::Result<Facts> {
    let file = ElfFile64::<object::LittleEndian>::parse(bytes)?;
    let endian = file.endian();
    let mut facts =
        Facts { is_fixed_executable: file.elf_header().e_type(endian) == elf::ET_EXEC, ..Facts::default() };
    for segment in file.elf_program_headers() {
        facts.has_interpreter |= segment.p_type(endian) == elf::PT_INTERP;
        if let Some(mut notes) = segment.notes(endian, bytes)? {
            while let Some(note) = notes.next()? {
                facts.has_go_note |= note.name() == b"Go";
            }
        }
    }
    let symbols = file.elf_dynamic_symbol_table();
    for symbol in symbols.iter().filter(|symbol| !symbol.is_undefined(endian)) {
        let name = symbols.symbol_name(endian, symbol)?;
        facts.has_version |= name == abi::VERSION_SYMBOL.as_bytes();
        facts.has_entry |= name == abi::ENTRY_SYMBOL.as_bytes();
    }
    let dynamic = file.elf_dynamic_table()?;
    for entry in &dynamic {
        match entry.tag {
            elf::DT_NEEDED => {
                facts.needed.push(String::from_utf8_lossy(dynamic.string(entry)?).into_owned());
            }
            elf::DT_FLAGS => facts.has_static_tls |= entry.val & elf::DF_STATIC_TLS.0 != 0,
            elf::DT_FLAGS_1 => facts.is_pie |= entry.val & elf::DF_1_PIE.0 != 0,
            _ => {}
        }
    }
    Ok(facts)
}

fn check_symbols(path: &Path, facts: &Facts) -> Result<(), StartError> {
    if facts.is_library() {
        return Ok(());
    }
    let file = path.display();
    if facts.has_go_note {
        let found = format!(
            "{file} is a Go library without the handler ABI; plugins built with -buildmode=plugin cannot be opened"
        );
        return Err(StartError::new(
            found,
            "rebuild it from the same source with this processor's golang onbuild image or runtimes/golang/build",
        ));
    }
    let mut missing = String::new();
    for (name, there) in [(abi::VERSION_SYMBOL, facts.has_version), (abi::ENTRY_SYMBOL, facts.has_entry)] {
        if !there {
            let and = if missing.is_empty() { "" } else { " and " };
            // Writing to a text cannot fail.
            _ = write!(missing, "{and}{name}");
        }
    }
    let found = format!("{file} is no handler library, it does not export {missing}");
    Err(StartError::new(
        found,
        "export a handler with the SDK (export_handler! in Rust, nuclio_handler.h in C)",
    ))
}

/// Whether our C library can load it. A library that needs none is fine everywhere.
fn check_loadable(path: &Path, facts: &Facts, processor: Processor) -> Result<(), StartError> {
    let file = path.display();
    let exec_form =
        "build the handler in its exec form (an executable; Go: runtimes/golang/build --form executable)";
    if processor.is_static {
        let found = format!("{file} is a shared library and this processor is linked statically");
        return Err(StartError::new(
            found,
            format!("use the processor built for dynamic glibc, or {exec_form}"),
        ));
    }
    let foreign = facts.needed.iter().find(|name| is_libc(name, !processor.musl));
    if let Some(name) = foreign {
        let ours = if processor.musl { "musl" } else { "glibc" };
        let found = format!("{file} needs {name} and this processor runs on {ours}");
        return Err(StartError::new(found, format!("build it against {ours}, or {exec_form}")));
    }
    if processor.musl && facts.has_static_tls {
        let found = format!("{file} has static thread-local storage, which musl cannot load");
        return Err(StartError::new(found, exec_form));
    }
    Ok(())
}

/// Whether a needed library is the C library musl, or else glibc.
fn is_libc(name: &str, musl: bool) -> bool {
    if musl {
        name == "libc.so" || name.starts_with("libc.musl-") || name.starts_with("ld-musl-")
    } else {
        name == "libc.so.6" || name.starts_with("ld-linux")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GLIBC: Processor = Processor { machine: 62, musl: false, is_static: false };

    fn library(needed: &[&str]) -> Facts {
        Facts {
            has_version: true,
            has_entry: true,
            needed: needed.iter().map(ToString::to_string).collect(),
            ..Facts::default()
        }
    }

    fn refusal(facts: &Facts, processor: Processor) -> Option<String> {
        check_loadable(Path::new("h.so"), facts, processor).err().map(|error| error.to_string())
    }

    #[test]
    fn libraries_of_another_libc_are_refused() {
        let (glibc, musl) = (library(&["libm.so.6", "libc.so.6"]), library(&["libc.musl-x86_64.so.1"]));
        let on_musl = Processor { musl: true, ..GLIBC };
        assert_eq!(refusal(&glibc, GLIBC), None);
        assert_eq!(refusal(&library(&[]), GLIBC), None);
        assert_eq!(refusal(&musl, on_musl), None);
        assert!(refusal(&musl, GLIBC).unwrap().contains("needs libc.musl-x86_64.so.1"));
        assert!(refusal(&glibc, on_musl).unwrap().contains("needs libc.so.6"));
    }

    #[test]
    fn static_processors_and_musl_with_static_tls_name_the_exec_form() {
        let is_static = Processor { is_static: true, ..GLIBC };
        let on_musl = Processor { musl: true, ..GLIBC };
        let tls = Facts { has_static_tls: true, ..library(&[]) };
        assert_eq!(refusal(&tls, GLIBC), None);
        for processor in [is_static, on_musl] {
            assert!(refusal(&tls, processor).unwrap().contains("exec form"));
        }
    }

    #[test]
    fn position_independent_executables_may_be_libraries_too() {
        assert!(Facts { is_pie: true, ..Facts::default() }.is_executable());
        assert!(!Facts { is_pie: true, ..library(&[]) }.is_executable());
        assert!(Facts { has_interpreter: true, ..library(&[]) }.is_executable());
    }
}
