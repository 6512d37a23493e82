//! A server that plays the models of agents: it asks for one call of a tool, and then repeats the result of the tool.

use serde_json::{Value, json};
use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

/// The script that the model lets a tool run.
pub const SCRIPT: &str = "echo made by the model > made.txt; echo result $((40 + 2))";

/// The answer of the model begins with these words.
pub const ANSWER: &str = "the tool says:";

/// A server that plays models.
pub struct Model {
    pub port: u16,
    /// The bodies of all requests.
    pub requests: Arc<Mutex<Vec<Value>>>,
}

impl Model {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests: Arc<Mutex<Vec<Value>>> = Arc::default();
        let kept = requests.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let kept = kept.clone();
                thread::spawn(move || answer(stream.unwrap(), &kept));
            }
        });
        Self { port, requests }
    }
}

/// Answers one request, and closes the connection.
fn answer(stream: TcpStream, kept: &Mutex<Vec<Value>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut head, mut length) = (String::new(), 0);
    while reader.read_line(&mut head).is_ok_and(|read| read > 2) {
        let line = head.lines().last().unwrap_or_default().to_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    if reader.read_exact(&mut body).is_err() {
        return;
    }
    let request: Value = serde_json::from_slice(&body).unwrap_or_default();
    let path = head.split(' ').nth(1).unwrap_or_default().split('?').next().unwrap_or_default();
    let events = match path {
        "/v1/responses" => responses(&request),
        "/v1/messages" => messages(&request),
        _ => String::new(),
    };
    kept.lock().unwrap().push(request);
    let status = if events.is_empty() { "404 Not Found" } else { "200 OK" };
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/event-stream\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        events.len()
    );
    // A client that has gone needs no answer.
    (&stream).write_all(format!("{head}{events}").as_bytes()).ok();
}

fn events(all: &[Value]) -> String {
    all.iter().map(|event| format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap())).collect()
}

/// Returns the name of the tool that runs scripts, and the namespace in which the client has it.
fn tool(request: &Value) -> Option<(String, Option<String>)> {
    let is_shell = |tool: &Value| tool["name"].as_str().filter(|name| name.ends_with("shell_exec_v1")).map(str::to_owned);
    request["tools"].as_array()?.iter().find_map(|tool| {
        let within = tool["tools"].as_array().into_iter().flatten().find_map(is_shell);
        within.map(|name| (name, tool["name"].as_str().map(str::to_owned))).or_else(|| is_shell(tool).map(|name| (name, None)))
    })
}

/// Plays the API `responses` of OpenAI.
fn responses(request: &Value) -> String {
    let output = request["input"].as_array().into_iter().flatten().find(|item| item["type"] == "function_call_output");
    let item = match (output, tool(request)) {
        (Some(output), _) => {
            let text = format!("{ANSWER} {}", output["output"]);
            json!({ "type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [{ "type": "output_text", "text": text, "annotations": [] }] })
        }
        (None, Some((name, namespace))) => {
            let arguments = json!({ "command": SCRIPT }).to_string();
            let mut call = json!({ "type": "function_call", "id": "fc_1", "call_id": "call_1", "name": name, "arguments": arguments, "status": "completed" });
            if let Some(namespace) = namespace {
                call["namespace"] = namespace.into();
            }
            call
        }
        (None, None) => {
            json!({ "type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [{ "type": "output_text", "text": "there is no tool", "annotations": [] }] })
        }
    };
    let usage = json!({ "input_tokens": 1, "input_tokens_details": { "cached_tokens": 0 }, "output_tokens": 1, "output_tokens_details": { "reasoning_tokens": 0 }, "total_tokens": 2 });
    let response = |status: &str, output: Value| json!({ "id": "resp_1", "object": "response", "created_at": 1, "status": status, "model": "m", "output": output, "usage": usage });
    events(&[
        json!({ "type": "response.created", "response": response("in_progress", json!([])) }),
        json!({ "type": "response.output_item.done", "output_index": 0, "item": item }),
        json!({ "type": "response.completed", "response": response("completed", json!([item])) }),
    ])
}

/// Plays the API `messages` of Anthropic.
fn messages(request: &Value) -> String {
    let blocks =
        request["messages"].as_array().into_iter().flatten().filter_map(|message| message["content"].as_array()).flatten();
    let output = blocks.clone().find(|block| block["type"] == "tool_result");
    let (block, delta, reason) = match (output, tool(request)) {
        (Some(output), _) => {
            let text = format!("{ANSWER} {}", output["content"]);
            (json!({ "type": "text", "text": "" }), json!({ "type": "text_delta", "text": text }), "end_turn")
        }
        (None, Some((name, _))) => {
            let arguments = json!({ "command": SCRIPT }).to_string();
            (
                json!({ "type": "tool_use", "id": "toolu_1", "name": name, "input": {} }),
                json!({ "type": "input_json_delta", "partial_json": arguments }),
                "tool_use",
            )
        }
        (None, None) => {
            (json!({ "type": "text", "text": "" }), json!({ "type": "text_delta", "text": "there is no tool" }), "end_turn")
        }
    };
    events(&[
        json!({ "type": "message_start", "message": { "id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [], "stop_reason": null, "stop_sequence": null, "usage": { "input_tokens": 1, "output_tokens": 1 } } }),
        json!({ "type": "content_block_start", "index": 0, "content_block": block }),
        json!({ "type": "content_block_delta", "index": 0, "delta": delta }),
        json!({ "type": "content_block_stop", "index": 0 }),
        json!({ "type": "message_delta", "delta": { "stop_reason": reason, "stop_sequence": null }, "usage": { "output_tokens": 1 } }),
        json!({ "type": "message_stop" }),
    ])
}
