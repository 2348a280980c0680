//! A cluster of three nodes with the sample application, and everything that its users rely on. The tests run in order
//! over one cluster: serving, tenants, images, bad input, survival, and at last its removal.
#![forbid(unsafe_code)]

mod faults;
mod outside;
mod policies;
mod registry;
mod serving;
mod sight;
mod static_pods;
mod storage;
mod survival;
mod tenants;

use std::process::ExitCode;

use anyhow::Result;
use harness::{Cluster, Suite};

fn main() -> ExitCode {
    if std::env::args().any(|argument| argument == "--list") {
        return ExitCode::SUCCESS;
    }
    match shop() {
        Ok(cluster) => suite(cluster).run(),
        Err(error) => {
            eprintln!("no cluster to test: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn suite(cluster: Cluster) -> Suite<Cluster> {
    Suite::new(cluster)
        .test(
            "the_shop_answers_through_vip_and_name_on_every_node",
            serving::answers_on_every_node,
        )
        .test(
            "the_front_reaches_redis_by_its_name",
            serving::front_reaches_redis,
        )
        .test(
            "other_names_and_headless_services_resolve",
            serving::names_resolve,
        )
        .test(
            "no_netfilter_rule_exists_on_a_node",
            serving::no_netfilter_rules,
        )
        .test(
            "usage_logs_and_exec_are_served",
            serving::usage_logs_and_exec,
        )
        .test(
            "scaling_3_10_2_loses_no_request",
            serving::scaling_loses_no_request,
        )
        .test(
            "a_rolling_update_loses_no_request",
            serving::rolling_update_loses_no_request,
        )
        .test(
            "the_tenant_wall_opens_and_closes_with_the_export",
            tenants::wall_follows_the_export,
        )
        .test(
            "policies_govern_what_comes_in",
            policies::ingress_is_governed,
        )
        .test(
            "policies_govern_what_goes_out_and_cut_connections",
            policies::egress_is_governed_and_live_connections_are_cut,
        )
        .test(
            "tenants_know_which_nodes_enforce_their_policies",
            policies::tenants_know_who_enforces,
        )
        .test("node_ports_answer_on_every_node", outside::node_ports)
        .test(
            "both_address_families_are_served",
            outside::both_families_are_served,
        )
        .test(
            "callers_from_outside_are_kept_where_it_is_asked_for",
            outside::callers_are_kept,
        )
        .test("load_balancers_addresses_answer", outside::load_balancers)
        .test(
            "a_spoofed_source_is_dropped_and_counted",
            tenants::spoofed_source_is_dropped,
        )
        .test(
            "sight_shows_a_denied_call_in_the_flow_log",
            sight::denied_call_is_in_the_flow_log,
        )
        .test(
            "sight_counts_what_was_denied",
            sight::counters_grow_by_what_was_denied,
        )
        .test(
            "sight_tells_calls_and_counts_them_for_their_service",
            sight::calls_are_heard_and_counted_for_their_service,
        )
        .test(
            "sight_tells_metrics_to_those_who_may",
            sight::metrics_are_told_to_those_who_may,
        )
        .test(
            "an_image_is_pulled_from_a_registry",
            registry::image_is_pulled,
        )
        .test(
            "claims_get_volumes_and_keep_their_data",
            storage::claims_keep_their_data,
        )
        .test(
            "what_containers_write_is_limited",
            storage::local_storage_is_limited,
        )
        .test(
            "a_nodes_own_pods_run_come_back_and_go",
            static_pods::run_come_back_and_go,
        )
        .test(
            "bad_manifests_name_the_field_and_change_nothing",
            faults::bad_manifests,
        )
        .test(
            "an_image_that_does_not_exist_says_so",
            faults::missing_image,
        )
        .test(
            "a_wrong_token_and_a_used_port_say_so",
            faults::wrong_token_and_used_port,
        )
        .test("a_killed_server_loses_nothing", survival::server_killed)
        .test(
            "a_killed_agent_breaks_no_connection",
            survival::agent_killed,
        )
        .test(
            "a_second_dev_up_upgrades_in_place",
            survival::upgrade_in_place,
        )
        .test("a_lost_node_is_replaced", survival::lost_node_is_replaced)
        .test(
            "load_balancers_addresses_move_from_a_lost_node",
            outside::load_balancers_outlive_a_node,
        )
        .test("dev_down_leaves_no_trace", survival::down_leaves_no_trace)
}

/// The cluster with the sample application running, and a client of each tenant on each node.
fn shop() -> Result<Cluster> {
    let cluster = Cluster::up("wgt", 3)?;
    let manifest = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/shop.yaml");
    cluster
        .waggle(&["apply", "-f", &manifest.to_string_lossy()])?
        .ok()?;
    cluster.apply(&clients(&cluster))?.ok()?;
    for (namespace, deployment) in [
        ("shop", "redis"),
        ("shop", "user-center"),
        ("billing", "ledger"),
    ] {
        cluster.rolled_out(namespace, deployment)?;
    }
    for node in cluster.nodes() {
        for namespace in ["shop", "billing"] {
            serving::pod_is_ready(&cluster, namespace, &format!("client-{}", node.name))?;
        }
    }
    Ok(cluster)
}

fn clients(cluster: &Cluster) -> String {
    let mut manifests = Vec::new();
    for node in cluster.nodes() {
        for namespace in ["shop", "billing"] {
            let name = &node.name;
            manifests.push(format!(
                r#"
apiVersion: v1
kind: Pod
metadata: {{name: client-{name}, namespace: {namespace}}}
spec:
  nodeSelector: {{kubernetes.io/hostname: {name}}}
  terminationGracePeriodSeconds: 0
  containers:
    - name: client
      image: shop/client:1.0
      command: ["sleep", "infinity"]
      resources: {{requests: {{cpu: 1m, memory: 4Mi}}}}
      securityContext: {{capabilities: {{add: [NET_RAW]}}}}
"#
            ));
        }
    }
    manifests.join("---")
}
