//! A program that embeds the library.

use crate::lab::hub::{Hub, MAIN};
use crate::lab::{InstanceLab, example, until};
use linchpin_instance::{Builder, Conflict, Instance};
use linchpin_shared::problem::Code;
use linchpin_shared::protocol::path;
use rustix::process::Signal;
use serde_json::json;

fn program(lab: &InstanceLab, name: &str) -> Builder {
    Instance::builder(name).home(lab.home()).project_dir(lab.project())
}

#[tokio::test]
async fn builder_and_start_register_a_program() {
    let lab = InstanceLab::new();
    let instance = program(&lab, "shop")
        .service("web", "http://127.0.0.1:5173")
        .mcp_server("tools", "http://127.0.0.1:1/mcp")
        .label("team", "red")
        .version("7")
        .start()
        .await
        .unwrap();
    let record = lab.registered("shop").await;
    assert_eq!(&record, instance.record());
    assert_eq!((record.services[0].url.as_str(), record.version.as_str()), ("http://127.0.0.1:5173", "7"));
    let hub = Hub::connect(&record).await;
    assert_eq!(hub.vitals().await.servers[0].name, "tools");
    let refused = hub.post(&MAIN.replace("main", "tools"), &[], json!("x")).await;
    assert_eq!(refused.problem(), (503, "server_unavailable".into(), true));
    assert_eq!(hub.post(path::STOP, &[], json!(null)).await.status, 202);
    instance.stop_requested().await;
    assert_eq!(lab.names().len(), 1, "to stop is up to the program");
    instance.stop().await.unwrap();
    assert!(lab.names().is_empty());
}

#[tokio::test]
async fn invalid_builder_input_registers_nothing() {
    let lab = InstanceLab::new();
    for (program, code) in [
        (program(&lab, "No"), Code::BadName),
        (program(&lab, "shop").service("a b", "http://127.0.0.1:1"), Code::BadName),
        (program(&lab, "shop").mcp_server("tools", "ftp://x"), Code::BadRequest),
    ] {
        assert_eq!(program.start().await.unwrap_err().code, code);
    }
    assert!(lab.names().is_empty());
}

#[tokio::test]
async fn program_may_register_two_names_but_none_twice() {
    let lab = InstanceLab::new();
    let first = program(&lab, "shop").start().await.unwrap();
    assert_eq!(program(&lab, "shop").start().await.unwrap_err().code, Code::NameTaken);
    let over = program(&lab, "shop").on_conflict(Conflict::TakeOver).start().await;
    assert_eq!(over.unwrap_err().code, Code::NameTaken, "it does not stop itself");
    let second = program(&lab, "shop").on_conflict(Conflict::Alongside).start().await.unwrap();
    assert_eq!(second.record().name, "shop-2");
    first.stop().await.unwrap();
    second.stop().await.unwrap();
}

#[tokio::test]
async fn dropped_instance_is_unregistered() {
    let lab = InstanceLab::new();
    drop(program(&lab, "shop").start().await.unwrap());
    until("it is unregistered", async || lab.names().is_empty().then_some(())).await;
    // Nor when the runtime ends with it.
    let home = program(&lab, "shop");
    let runtime = || tokio::runtime::Runtime::new().unwrap();
    std::thread::spawn(move || drop(runtime().block_on(home.start()).unwrap())).join().unwrap();
    assert!(lab.names().is_empty(), "{:?}", lab.names());
}

/// The example shows the right use: it ends well by every signal that asks for it.
#[tokio::test]
async fn example_unregisters_on_signals() {
    let lab = InstanceLab::new();
    for end in [Signal::TERM, Signal::INT, Signal::HUP] {
        let embed = lab.start_as(&example("embed"), &lab.project(), &[]);
        lab.registered("embed").await;
        embed.signal(end);
        let (status, output) = embed.ended().await;
        assert!(status.success(), "{end:?}: {status}: {output}");
        assert!(lab.names().is_empty(), "{end:?}");
    }
}
