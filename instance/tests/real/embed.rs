//! A program that embeds the library.

use crate::lab::hub::{Hub, MAIN};
use crate::lab::{Lab, until};
use linchpin_instance::{Builder, Conflict, Instance};
use linchpin_shared::problem::Code;
use linchpin_shared::protocol::path;
use linchpin_shared::registry::Owner;
use serde_json::json;

fn program(lab: &Lab, name: &str) -> Builder {
    Instance::builder(name).home(lab.home()).project_dir(lab.project())
}

#[tokio::test]
async fn two_calls_are_enough() {
    let lab = Lab::new();
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
async fn what_is_wrong_is_said_and_nothing_registered() {
    let lab = Lab::new();
    for (program, code) in [
        (program(&lab, "No"), Code::BadName),
        (program(&lab, "shop").service("a b", "http://127.0.0.1:1"), Code::BadName),
        (program(&lab, "shop").mcp_server("tools", "https://x"), Code::BadRequest),
    ] {
        assert_eq!(program.start().await.unwrap_err().code, code);
    }
    assert!(lab.names().is_empty());
}

#[tokio::test]
async fn one_program_may_be_two_but_not_the_same_twice() {
    let lab = Lab::new();
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
async fn a_program_that_goes_without_a_word_looks_dead() {
    let lab = Lab::new();
    drop(program(&lab, "shop").start().await.unwrap());
    until("its owner is dead", async || (lab.names() == [("shop".into(), Owner::Dead)]).then_some(())).await;
    program(&lab, "shop").start().await.unwrap().stop().await.unwrap();
}
