//! Profiles and explanations.

use super::*;

fn settings(profiles: Value) -> Settings {
    let whole = json!({"apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration",
        "leaderElection": {"leaderElect": false}, "profiles": profiles});
    let (settings, unused) = Settings::read(whole).unwrap();
    assert_eq!(unused, ["leaderElection"]);
    settings
}

fn refused(profile: Value, field: &str) {
    let whole = json!({"apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration",
        "profiles": [profile]});
    let error = Settings::read(whole.clone()).unwrap_err();
    assert!(error.to_string().contains(field), "{error}: {whole}");
}

/// Where the profile `p` of these puts a pod that asks for a core, when `a` is half used and `b` is not.
fn placed(profile: Value, change: impl FnOnce(&mut Value)) -> String {
    let mut profile = profile;
    profile["schedulerName"] = json!("p");
    let mut one = pod("p", "1", "1Gi");
    one["spec"]["schedulerName"] = json!("p");
    one["metadata"]["labels"] = json!({"app": "p"});
    change(&mut one);
    let nodes = [node("a", "4", "4Gi"), node("b", "4", "4Gi")];
    let other = with(
        bound("x", "2", "a"),
        "/spec/containers/0/resources/requests/memory",
        json!("2Gi"),
    );
    let mut world = world(&nodes, &[other, one]);
    let plan = plan(
        &world.snapshot,
        &settings(json!([profile])),
        &mut Queue::default(),
        world.now,
    );
    world.apply(&plan);
    place(&world, "p")
}

fn strategy(value: Value) -> Value {
    json!({"pluginConfig": [{"name": "NodeResourcesFit", "args": {"scoringStrategy": value}}]})
}

#[test]
fn profiles_choose_how_full_nodes_are_compared() {
    let keep = |_: &mut Value| ();
    assert_eq!(placed(json!({}), keep), "b");
    assert_eq!(
        placed(strategy(json!({"type": "LeastAllocated"})), keep),
        "b"
    );
    let most = json!({"type": "MostAllocated", "resources": [{"name": "cpu", "weight": 3}, {"name": "memory"}]});
    assert_eq!(placed(strategy(most), keep), "a");
    let shape = |points: Value| json!({"type": "RequestedToCapacityRatio", "requestedToCapacityRatio": {"shape": points}});
    let rising = json!([{"utilization": 0, "score": 0}, {"utilization": 100, "score": 10}]);
    let falling = json!([{"utilization": 0, "score": 10}, {"utilization": 100, "score": 0}]);
    assert_eq!(placed(strategy(shape(rising)), keep), "a");
    assert_eq!(placed(strategy(shape(falling)), keep), "b");
}

#[test]
fn a_workload_chooses_for_itself() {
    let wants = |how: &'static str| {
        move |pod: &mut Value| pod["metadata"]["annotations"] = json!({PLACEMENT: how})
    };
    assert_eq!(placed(json!({}), wants("pack")), "a");
    let most = strategy(json!({"type": "MostAllocated"}));
    assert_eq!(placed(most, wants("spread")), "b");
}

#[test]
fn plugins_are_left_out_and_weighed() {
    let cordoned = [with(
        node("a", "4", "4Gi"),
        "/spec/unschedulable",
        json!(true),
    )];
    let off = json!([{"plugins": {"filter": {"disabled": [{"name": "NodeUnschedulable"}]}}}]);
    let world = world(&cordoned, &[pod("p", "1", "1Gi")]);
    let bound = |settings: &Settings| {
        plan(&world.snapshot, settings, &mut Queue::default(), world.now)
            .writes
            .len()
    };
    assert!(matches!(
        plan(
            &world.snapshot,
            &settings(off),
            &mut Queue::default(),
            world.now
        )
        .writes[..],
        [Write::Bind { .. }]
    ));
    let other = settings(json!([{"schedulerName": "other"}]));
    assert_eq!(bound(&other), 0, "left to its own scheduler");
    let near = |pod: &mut Value| {
        pod["spec"]["affinity"] = json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 1, "preference": {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a"]}]}}]}});
    };
    let only = |weight: i64| {
        json!({"plugins": {"score": {"disabled": [{"name": "*"}],
        "enabled": [{"name": "NodeResourcesFit", "weight": 5}, {"name": "NodeAffinity", "weight": weight}]}}})
    };
    assert_eq!(
        (placed(only(1), near), placed(only(100), near)),
        ("b".into(), "a".into())
    );
}

#[test]
fn what_means_nothing_is_refused_by_its_name() {
    refused(
        json!({"plugins": {"filter": {"enabled": [{"name": "Mine"}]}}}),
        "profiles[0].plugins.filter.enabled[0]",
    );
    refused(
        json!({"plugins": {"score": {"enabled": [{"name": "NodePorts"}]}}}),
        "does nothing at this point",
    );
    refused(
        json!({"plugins": {"score": {"enabled": [{"name": "NodeAffinity", "weight": 200}]}}}),
        "weight",
    );
    refused(json!({"extenders": []}), "extenders");
    refused(strategy(json!({"type": "Best"})), "scoringStrategy.type");
    refused(
        strategy(json!({"type": "RequestedToCapacityRatio"})),
        "shape",
    );
    let args = |name: &str, args: Value| json!({"pluginConfig": [{"name": name, "args": args}]});
    refused(
        args("InterPodAffinity", json!({"hardPodAffinityWeight": 101})),
        "hardPodAffinityWeight",
    );
    let constraint =
        json!({"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"});
    let system = json!({"defaultingType": "System", "defaultConstraints": [constraint]});
    refused(args("PodTopologySpread", system), "defaultingType");
    refused(args("VolumeBinding", json!({})), "pluginConfig[0]");
}

#[test]
fn pods_without_constraints_get_the_profiles() {
    let zone =
        |name: &str, zone: &str| with(node(name, "9", "9Gi"), "/metadata/labels/zone", json!(zone));
    let nodes = [zone("a", "one"), zone("b", "one"), zone("c", "two")];
    let constraint =
        json!({"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"});
    let args = json!({"defaultingType": "List", "defaultConstraints": [constraint]});
    let profile = json!([{"pluginConfig": [{"name": "PodTopologySpread", "args": args}]}]);
    let pods: Vec<Value> = (0..4)
        .map(|index| pod(&format!("p{index}"), "1", "1Mi"))
        .collect();
    let mut world = world(&nodes, &pods);
    world.put(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"selector": {"app": "web"}}}));
    let plan = plan(
        &world.snapshot,
        &settings(profile),
        &mut Queue::default(),
        world.now,
    );
    world.apply(&plan);
    let on_c = (0..4).filter(|index| place(&world, &format!("p{index}")) == "c");
    assert_eq!(on_c.count(), 2);
}

#[test]
fn pods_that_are_there_draw_those_that_they_like() {
    let nodes = [node("a", "9", "9Gi"), node("b", "9", "9Gi")];
    let likes = json!({"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"labelSelector": {"matchLabels": {"app": "p"}}, "topologyKey": "kubernetes.io/hostname"}]}});
    let other = with(bound("x", "2", "a"), "/spec/affinity", likes);
    let other = with(other, "/metadata/labels", json!({"app": "x"}));
    let one = with(
        pod("p", "1", "1Mi"),
        "/metadata/labels",
        json!({"app": "p"}),
    );
    check(&nodes, &[other, one], "a");
}

#[test]
fn every_node_is_explained() {
    let nodes = [
        node("a", "4", "4Gi"),
        node("b", "1", "4Gi"),
        with(node("c", "4", "4Gi"), "/spec/unschedulable", json!(true)),
        node("d", "8", "8Gi"),
    ];
    let mut shop = world(&nodes, &[pod("p", "2", "1Mi")]);
    let told = |shop: &World| {
        let all = Settings::default();
        explain(&shop.snapshot, &all, "shop", "p").unwrap()
    };
    let before = told(&shop);
    let names: Vec<&str> = before.nodes.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["d", "a", "b", "c"]);
    assert_eq!(before.best.as_deref(), Some("d"));
    let of = |index: usize| {
        (
            before.nodes[index].filter,
            before.nodes[index].reasons.join(", "),
        )
    };
    assert_eq!(of(2), (Some("NodeResourcesFit"), "Insufficient cpu".into()));
    assert_eq!(
        of(3),
        (
            Some("NodeUnschedulable"),
            "node(s) were unschedulable".into()
        )
    );
    let sum: i64 = before.nodes[0].scores.values().sum();
    assert_eq!(before.nodes[0].total, Some(sum));
    run(&mut shop);
    assert_eq!(place(&shop, "p"), "d", "what is explained is what is done");
    let after = told(&shop);
    assert_eq!(
        (after.bound.as_deref(), &after.nodes),
        (Some("d"), &before.nodes)
    );
}
