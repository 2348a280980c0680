//! System call filters as the kernel takes them. Making one takes libseccomp as long as the rest of a container's creation
//! together, so a worker makes each once; containers only load it.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::io::{self, Read, Seek};
use std::rc::Rc;

use libcontainer::oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag,
    LinuxSeccompOperator,
};
use libseccomp::{
    ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall,
};
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::error::FaultKind;
use crate::protocol::Fault;
use crate::sys;

/// A program of classic BPF, with the flags that it is loaded with.
#[derive(Clone)]
pub(super) struct Filter {
    program: Rc<[u8]>,
    flags: libc::c_ulong,
}

impl Filter {
    /// From a profile without notifications.
    fn compile(profile: &LinuxSeccomp) -> Result<Self, Fault> {
        let default = action(profile.default_action(), profile.default_errno_ret())?;
        let mut context = ScmpFilterContext::new(default).map_err(|e| failed("begin", &e))?;
        for arch in profile.architectures().iter().flatten() {
            context
                .add_arch(architecture(*arch)?)
                .map_err(|e| failed("add an architecture", &e))?;
        }
        for rule in profile.syscalls().iter().flatten() {
            let action = action(rule.action(), rule.errno_ret())?;
            if action == default {
                continue;
            }
            let compared: Vec<ScmpArgCompare> =
                rule.args().iter().flatten().map(comparison).collect();
            let indexes: HashSet<usize> = rule
                .args()
                .iter()
                .flatten()
                .map(LinuxSeccompArg::index)
                .collect();
            // One rule compares an argument once; several values of one are rules of their own, as with runc.
            let conditions: Vec<&[ScmpArgCompare]> = if indexes.len() < compared.len() {
                compared.chunks(1).collect()
            } else {
                vec![&compared]
            };
            for name in rule.names() {
                // Calls that this library has no number for stay with the default.
                let Ok(call) = ScmpSyscall::from_name(name) else {
                    continue;
                };
                for condition in &conditions {
                    context
                        .add_rule_conditional(action, call, condition)
                        .map_err(|e| failed(name, &e))?;
                }
            }
        }
        Ok(Self {
            program: export(&context).map_err(|e| failed("export", &e))?,
            flags: (profile.flags().iter().flatten()).fold(0, |all, one| all | flag(*one)),
        })
    }

    /// From here on this process and what it executes is filtered.
    pub(super) fn load(&self) -> io::Result<()> {
        sys::load_filter(&self.program, self.flags)
    }
}

fn failed(what: &str, error: &dyn std::fmt::Display) -> Fault {
    let text = format!("system call filter: {what}: {error}");
    Fault::new(FaultKind::Invalid, text)
}

fn export(context: &ScmpFilterContext) -> io::Result<Rc<[u8]>> {
    let mut file: std::fs::File = memfd_create("filter", MFdFlags::MFD_CLOEXEC)?.into();
    context.export_bpf(&file).map_err(io::Error::other)?;
    let mut program = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut program)?;
    Ok(program.into())
}

/// The filters that a worker has made, by the text of their profiles.
#[derive(Default)]
pub(super) struct Filters(RefCell<HashMap<String, Filter>>);

impl Filters {
    pub(super) fn of(&self, profile: &LinuxSeccomp) -> Result<Filter, Fault> {
        let text = serde_json::to_string(profile).map_err(Fault::internal)?;
        let mut made = self.0.borrow_mut();
        if let Some(filter) = made.get(&text) {
            return Ok(filter.clone());
        }
        let filter = Filter::compile(profile)?;
        made.insert(text, filter.clone());
        Ok(filter)
    }
}

fn flag(flag: LinuxSeccompFilterFlag) -> libc::c_ulong {
    match flag {
        LinuxSeccompFilterFlag::SeccompFilterFlagLog => libc::SECCOMP_FILTER_FLAG_LOG,
        LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
        // About other threads, of which there are none, and about notifications.
        LinuxSeccompFilterFlag::SeccompFilterFlagTsync
        | LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => 0,
    }
}

fn architecture(arch: Arch) -> Result<ScmpArch, Fault> {
    match arch {
        Arch::ScmpArchNative => Ok(ScmpArch::Native),
        Arch::ScmpArchX86 => Ok(ScmpArch::X86),
        Arch::ScmpArchX86_64 => Ok(ScmpArch::X8664),
        Arch::ScmpArchX32 => Ok(ScmpArch::X32),
        Arch::ScmpArchArm => Ok(ScmpArch::Arm),
        Arch::ScmpArchAarch64 => Ok(ScmpArch::Aarch64),
        other => Err(Fault::internal(format!(
            "system call filter: architecture {other:?}"
        ))),
    }
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<ScmpAction, Fault> {
    let errno = errno.map_or(libc::EPERM, u32::cast_signed);
    Ok(match action {
        LinuxSeccompAction::ScmpActAllow => ScmpAction::Allow,
        LinuxSeccompAction::ScmpActErrno => ScmpAction::Errno(errno),
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => {
            ScmpAction::KillThread
        }
        LinuxSeccompAction::ScmpActKillProcess => ScmpAction::KillProcess,
        LinuxSeccompAction::ScmpActTrap => ScmpAction::Trap,
        LinuxSeccompAction::ScmpActLog => ScmpAction::Log,
        LinuxSeccompAction::ScmpActTrace => {
            ScmpAction::Trace(u16::try_from(errno).map_err(|e| failed("errnoRet", &e))?)
        }
        LinuxSeccompAction::ScmpActNotify => {
            return Err(failed(
                "SCMP_ACT_NOTIFY",
                &"nobody listens for notifications here",
            ));
        }
    })
}

fn comparison(argument: &LinuxSeccompArg) -> ScmpArgCompare {
    let operator = match argument.op() {
        LinuxSeccompOperator::ScmpCmpNe => ScmpCompareOp::NotEqual,
        LinuxSeccompOperator::ScmpCmpLt => ScmpCompareOp::Less,
        LinuxSeccompOperator::ScmpCmpLe => ScmpCompareOp::LessOrEqual,
        LinuxSeccompOperator::ScmpCmpEq => ScmpCompareOp::Equal,
        LinuxSeccompOperator::ScmpCmpGe => ScmpCompareOp::GreaterEqual,
        LinuxSeccompOperator::ScmpCmpGt => ScmpCompareOp::Greater,
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            // The first value is the mask, as container engines write it. (libcontainer takes the second one for it, and
            // so allows every clone(2) where only those without namespaces are meant.)
            return ScmpArgCompare::new(
                argument.index() as u32,
                ScmpCompareOp::MaskedEqual(argument.value()),
                argument.value_two().unwrap_or(0),
            );
        }
    };
    ScmpArgCompare::new(argument.index() as u32, operator, argument.value())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seccomp::default_profile;

    /// What `clone(flags)` says to a process under `filter`: 0 or an errno.
    fn clone_under(filter: &Filter, flags: libc::c_int) -> i32 {
        // SAFETY: the child calls nothing that takes a lock, and ends without running anybody's destructors.
        match unsafe { nix::unistd::fork() }.unwrap() {
            nix::unistd::ForkResult::Child => {
                // SAFETY: as above; the grandchild ends at once.
                unsafe {
                    libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
                    if filter.load().is_err() {
                        libc::_exit(255);
                    }
                    let made = libc::syscall(libc::SYS_clone, flags | libc::SIGCHLD, 0, 0, 0, 0);
                    if made == 0 {
                        libc::_exit(0);
                    }
                    libc::_exit(if made < 0 {
                        *libc::__errno_location()
                    } else {
                        0
                    })
                }
            }
            nix::unistd::ForkResult::Parent { child } => {
                match nix::sys::wait::waitpid(child, None).unwrap() {
                    nix::sys::wait::WaitStatus::Exited(_, code) => code,
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    #[test]
    fn clone_makes_processes_but_no_namespaces_without_the_capability() {
        let filters = Filters::default();
        let plain = filters.of(&default_profile(&[]).unwrap()).unwrap();
        assert_eq!(clone_under(&plain, 0), 0);
        for flag in [libc::CLONE_NEWUSER, libc::CLONE_NEWNS, libc::CLONE_NEWNET] {
            assert_eq!(clone_under(&plain, flag), libc::EPERM, "{flag:x}");
        }
        let again = filters.of(&default_profile(&[]).unwrap()).unwrap();
        assert!(Rc::ptr_eq(&plain.program, &again.program), "made twice");
        let admin = default_profile(&["CAP_SYS_ADMIN".into()]).unwrap();
        let admin = filters.of(&admin).unwrap();
        assert_ne!(clone_under(&admin, libc::CLONE_NEWNS), 255);
        assert_ne!(plain.program.len(), admin.program.len());
    }

    #[test]
    fn profiles_say_what_they_ask_for() {
        let of = |text: &str| {
            let profile: LinuxSeccomp = serde_json::from_str(text).unwrap();
            Filters::default().of(&profile)
        };
        let logs = of(
            r#"{"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_LOG"],
            "syscalls":[{"names":["clone"],"action":"SCMP_ACT_ERRNO","errnoRet":17,"args":[
                {"index":0,"value":268435456,"valueTwo":268435456,"op":"SCMP_CMP_MASKED_EQ"}]}]}"#,
        )
        .unwrap();
        assert_eq!(logs.flags, libc::SECCOMP_FILTER_FLAG_LOG);
        assert_eq!(clone_under(&logs, 0), 0);
        assert_eq!(clone_under(&logs, libc::CLONE_NEWUSER), 17);
        let notifies = of(r#"{"defaultAction":"SCMP_ACT_ALLOW",
            "syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_NOTIFY"}]}"#);
        assert!(notifies.is_err());
    }
}
