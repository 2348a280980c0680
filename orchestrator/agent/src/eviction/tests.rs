//! Tables of thresholds, readings and pods, and what follows.

use super::*;
use crate::machine::Disk;

fn disk(percent_free: u64, inodes_free: u64) -> Disk {
    Disk {
        bytes: 100 << 30,
        bytes_free: percent_free << 30,
        inodes: 1000,
        inodes_free,
    }
}

fn machine(memory_mib: u64, disk_percent: u64) -> Machine {
    Machine {
        cpus: 2,
        memory: 8 << 30,
        memory_available: memory_mib << 20,
        disk: disk(disk_percent, 900),
        images: disk(disk_percent, 900),
        tasks: 100,
        most_tasks: 32_768,
    }
}

fn options(hard: &str, soft: &str, grace: &str) -> EvictionOptions {
    let seconds = |text: &str| {
        text.parse()
            .map(Duration::from_secs)
            .map_err(|_| text.into())
    };
    EvictionOptions {
        hard: hard.parse().unwrap(),
        soft: soft.parse().unwrap(),
        soft_grace: GracePeriods::parse(grace, seconds).unwrap(),
        ..EvictionOptions::default()
    }
}

#[test]
fn the_usual_thresholds_are_those_that_are_written() {
    let text = "memory.available<100Mi,nodefs.available<10%,nodefs.inodesFree<5%,pid.available<10%";
    assert_eq!(
        text.parse::<Thresholds>().unwrap(),
        EvictionOptions::default().hard
    );
    for (bad, word) in [
        ("memory", "SIGNAL<AMOUNT"),
        ("memory.free<1Gi", "memory.available"),
        ("memory.available<x", "100Mi or 10%"),
        ("memory.available<101%", "100Mi or 10%"),
        ("memory.available<-1", "100Mi or 10%"),
    ] {
        let error = bad.parse::<Thresholds>().unwrap_err();
        assert!(error.contains(word), "{bad}: {error}");
    }
    assert_eq!(Amount::parse("12.5%").unwrap().of(8000), 1000);
    let error = options("", "memory.available<1Gi", "").check().unwrap_err();
    assert!(error.contains("memory.available=1m30s"), "{error}");
    assert_eq!(
        options("", "memory.available<1Gi", "memory.available=9").check(),
        Ok(())
    );
}

#[test]
fn pressures_come_with_the_readings_and_go_later() {
    let usual = EvictionOptions::default();
    let mut watcher = Watcher::default();
    let mut look = |machine: &Machine, second: i64| {
        let (pressures, due) = watcher.look(&usual, machine, second * SECOND);
        (
            pressures.into_iter().collect::<Vec<_>>(),
            due.first().map(|d| d.signal),
        )
    };
    assert_eq!(look(&machine(4000, 50), 0), (vec![], None));
    assert_eq!(
        look(&machine(99, 50), 10),
        (vec![Pressure::Memory], Some(Signal::MemoryAvailable))
    );
    assert_eq!(
        look(&machine(99, 9), 20),
        (
            vec![Pressure::Memory, Pressure::Disk],
            Some(Signal::MemoryAvailable)
        )
    );
    let few = Machine {
        disk: disk(50, 40),
        tasks: 32_000,
        ..machine(4000, 50)
    };
    assert_eq!(
        look(&few, 30),
        (
            vec![Pressure::Memory, Pressure::Disk, Pressure::Pid],
            Some(Signal::NodefsInodesFree)
        )
    );
    // They hold for five minutes after they were last seen, but nothing is due.
    assert_eq!(
        look(&machine(4000, 50), 319),
        (vec![Pressure::Memory, Pressure::Disk, Pressure::Pid], None)
    );
    assert_eq!(
        look(&machine(4000, 50), 320),
        (vec![Pressure::Disk, Pressure::Pid], None)
    );
    assert_eq!(look(&machine(4000, 50), 330), (vec![], None));
    // A file system that does not count inodes is not short of them.
    let none = Machine {
        disk: Disk {
            inodes: 0,
            ..disk(50, 0)
        },
        ..machine(4000, 50)
    };
    assert_eq!(look(&none, 400), (vec![], None));
}

#[test]
fn a_soft_threshold_must_be_passed_for_its_time_without_a_break() {
    let mut soft = options(
        "memory.available<100Mi",
        "memory.available<1Gi",
        "memory.available=30",
    );
    soft.most_grace = 60;
    let mut watcher = Watcher::default();
    let mut look = |mib: u64, second: i64| {
        let (pressures, due) = watcher.look(&soft, &machine(mib, 50), second * SECOND);
        (!pressures.is_empty(), due.first().map(|d| d.grace))
    };
    assert_eq!(look(900, 0), (true, None));
    assert_eq!(look(900, 29), (true, None));
    assert_eq!(look(2000, 29), (true, None));
    assert_eq!(look(900, 30), (true, None));
    assert_eq!(look(900, 59), (true, None));
    assert_eq!(look(900, 60), (true, Some(60)));
    assert_eq!(
        look(50, 70),
        (true, Some(1)),
        "the hard one has no patience"
    );
}

fn pod(uid: &str, priority: i32, used: u64, asked: u64) -> Candidate {
    let memory = Share { used, asked };
    Candidate {
        uid: uid.to_owned(),
        priority,
        memory,
        ..Candidate::default()
    }
}

fn check(signal: Signal, pods: &[Candidate], expect: Option<&str>) -> Option<Victim> {
    let due = Due {
        news: true,
        signal,
        threshold: "100Mi".to_owned(),
        available: 50 << 20,
        grace: 1,
    };
    let found = victim(&due, pods);
    assert_eq!(found.as_ref().map(|v| v.uid.as_str()), expect, "{pods:?}");
    found
}

#[test]
fn who_uses_more_than_it_asked_for_goes_first_then_the_lesser_then_the_larger() {
    let memory = Signal::MemoryAvailable;
    check(memory, &[], None);
    check(
        memory,
        &[pod("within", 0, 900, 1000), pod("above", 9, 2, 1)],
        Some("above"),
    );
    check(
        memory,
        &[pod("high", 9, 9000, 0), pod("low", 0, 2, 1)],
        Some("low"),
    );
    check(
        memory,
        &[pod("a", 0, 300, 200), pod("b", 0, 250, 0)],
        Some("b"),
    );
    check(
        memory,
        &[pod("low", 0, 1, 10), pod("high", 5, 1, 10)],
        Some("low"),
    );
    check(
        memory,
        &[pod("far", 0, 1, 10), pod("near", 0, 9, 10)],
        Some("near"),
    );
    let critical = pod("critical", SYSTEM_CRITICAL, 9000, 0);
    let fixed = Candidate {
        is_static: true,
        ..pod("static", 0, 9000, 0)
    };
    check(memory, &[critical.clone(), fixed.clone()], None);
    let found = check(
        memory,
        &[critical, fixed, pod("u", 0, 3 << 20, 1 << 20)],
        Some("u"),
    );
    assert_eq!(
        found.unwrap().message,
        "The node was low on resource: memory. Threshold quantity: 100Mi, available: 51200Ki. \
         The pod was using 3072Ki, request is 1024Ki, has larger consumption of memory. "
    );
}

#[test]
fn what_is_short_decides_what_counts() {
    let one = Candidate {
        disk: Share { used: 5, asked: 0 },
        inodes: 1,
        processes: 7,
        ..pod("one", 0, 1, 1)
    };
    let two = Candidate {
        disk: Share {
            used: 50,
            asked: 60,
        },
        inodes: 9,
        processes: 2,
        ..pod("two", 0, 2, 1)
    };
    let pods = [one, two];
    check(Signal::MemoryAvailable, &pods, Some("two"));
    check(Signal::NodefsAvailable, &pods, Some("one"));
    check(Signal::NodefsInodesFree, &pods, Some("two"));
    check(Signal::PidAvailable, &pods, Some("one"));
}

#[test]
fn what_is_kept_from_pods_is_what_hard_thresholds_say() {
    let machine = machine(4000, 50);
    assert_eq!(
        EvictionOptions::default().kept(&machine),
        (100 << 20, (100 << 30) / 1000 * 100)
    );
    assert_eq!(options("", "", "").kept(&machine), (0, 0));
}

#[test]
fn more_than_the_threshold_is_reclaimed_and_said_once() {
    let options = EvictionOptions {
        reclaim: "imagefs.available=5%".parse().unwrap(),
        ..options("imagefs.available<15%", "", "")
    };
    let mut watcher = Watcher::default();
    let mut look = |percent, at: i64| {
        let (pressures, due) = watcher.look(&options, &machine(4096, percent), at * SECOND);
        (
            pressures.contains(&Pressure::Disk),
            due.first().map(|due| due.news),
        )
    };
    assert_eq!(look(16, 0), (false, None));
    assert_eq!(look(14, 10), (true, Some(true)));
    assert_eq!(
        look(16, 20),
        (true, Some(false)),
        "above it, but not by enough"
    );
    assert_eq!(look(21, 30), (true, None), "the pressure holds for a while");
    assert_eq!(look(16, 400), (false, None));
    assert_eq!(look(14, 410), (true, Some(true)));
    assert!("imagefs.available<5%".parse::<Reclaims>().is_err());
}

#[test]
fn what_only_came_close_is_not_reclaimed_beyond_its_threshold() {
    let options = EvictionOptions {
        reclaim: "memory.available=500Mi".parse().unwrap(),
        ..options("", "memory.available<1Gi", "memory.available=90")
    };
    let mut watcher = Watcher::default();
    let mut due = |mib, at: i64| {
        let (_, due) = watcher.look(&options, &machine(mib, 50), at * SECOND);
        !due.is_empty()
    };
    assert!(!due(1000, 0), "its grace begins");
    assert!(!due(1200, 10));
    assert!(!due(1200, 100), "it was never due");
    assert!(!due(1000, 110));
    assert!(due(1000, 200));
    assert!(due(1200, 210), "now 500Mi more have to be free");
}

#[test]
fn images_may_have_a_file_system_of_their_own() {
    let options = options("nodefs.available<10%,imagefs.available<15%", "", "");
    let full = Machine {
        images: disk(14, 900),
        ..machine(4000, 50)
    };
    let (pressures, due) = Watcher::default().look(&options, &full, 0);
    assert!(pressures.contains(&Pressure::Disk));
    let signals: Vec<Signal> = due.iter().map(|due| due.signal).collect();
    assert_eq!(signals, [Signal::ImagefsAvailable]);
}
