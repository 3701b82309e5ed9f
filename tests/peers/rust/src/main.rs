//! Peer serves or makes the calls of a plan over ttrpc, with the Rust implementation that Kata uses.
//!
//!     peer serve|call SOCKET PLAN
//!
//! The plan is that of ../../go/main.go, and both sides check that they got what it says.

use std::collections::{HashMap, VecDeque};
use std::error::Error;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use protobuf::Enum;
use ttrpc::proto::FLAG_NO_DATA;
use ttrpc::r#async::{Client, MethodHandler, Server, Service, StreamHandler, StreamInner, TtrpcContext};
use ttrpc::{get_status, Code, Request, Response};

type Failure = Box<dyn Error + Send + Sync>;

const LANES: usize = 4;

#[derive(Clone)]
struct Call {
    service: String,
    method: String,
    kind: String,
    code: Code,
    requests: Vec<Vec<u8>>,
    responses: Vec<Vec<u8>>,
}

impl Call {
    fn asks(&self) -> bool {
        self.kind != "server"
    }

    fn answers(&self) -> bool {
        self.kind != "client"
    }

    /// The Response that ends it, with a payload where it is not a stream's.
    fn response(&self, payload: bool) -> Response {
        let mut response = Response::new();
        response.set_status(get_status(self.code, if self.code == Code::OK { "" } else { "as planned" }));
        if payload && self.code == Code::OK {
            response.payload = self.responses[0].clone();
        }
        response
    }

    fn ended(&self, error: ttrpc::Error) -> Result<(), Failure> {
        match error {
            ttrpc::Error::RpcStatus(status) if self.code != Code::OK && status.code() == self.code => Ok(()),
            ttrpc::Error::Eof if self.code == Code::OK => Ok(()),
            other => Err(format!("ended with {other:?}, not with {:?}", self.code).into()),
        }
    }
}

#[derive(Clone)]
struct Waiting(Arc<Mutex<VecDeque<Call>>>);

impl Waiting {
    fn next(&self) -> Call {
        self.0.lock().unwrap().pop_front().expect("more calls than planned")
    }
}

#[async_trait]
impl MethodHandler for Waiting {
    async fn handler(&self, _: TtrpcContext, request: Request) -> ttrpc::Result<Response> {
        let planned = self.next();
        same(&request.payload, &planned.requests[0])?;
        Ok(planned.response(true))
    }
}

#[async_trait]
impl StreamHandler for Waiting {
    async fn handler(&self, context: TtrpcContext, mut stream: StreamInner) -> ttrpc::Result<Option<Response>> {
        let planned = self.next();
        if planned.asks() && context.mh.flags & FLAG_NO_DATA == 0 {
            same(&stream.recv().await?, &[])?; // a Go client's Request without a message, which this server takes for one
        }
        for i in 0..planned.requests.len().max(planned.responses.len()) {
            if let Some(wanted) = planned.requests.get(i) {
                same(&stream.recv().await?, wanted)?;
            }
            if let (Some(response), true) = (planned.responses.get(i), planned.answers()) {
                stream.send(response.clone()).await?;
            }
        }
        if planned.asks() && !matches!(stream.recv().await, Err(ttrpc::Error::Eof)) {
            return Err(ttrpc::Error::Others("more requests than planned".into()));
        }
        let ends_with_data = planned.code == Code::OK && planned.answers();
        Ok(if ends_with_data { None } else { Some(planned.response(!planned.answers())) })
    }
}

fn same(got: &[u8], wanted: &[u8]) -> ttrpc::Result<()> {
    if got == wanted {
        return Ok(());
    }
    Err(ttrpc::Error::Others(format!("got {got:02x?}, not {wanted:02x?}")))
}

async fn serve(address: &str, plan: Vec<Call>) -> Result<(), Failure> {
    let mut waiting: HashMap<(String, String), (Waiting, bool)> = HashMap::new();
    for call in plan {
        let queue = waiting
            .entry((call.service.clone(), call.method.clone()))
            .or_insert_with(|| (Waiting(Default::default()), call.kind == "unary"));
        queue.0 .0.lock().unwrap().push_back(call);
    }
    let mut services: HashMap<String, Service> = HashMap::new();
    for ((service, method), (queue, unary)) in waiting {
        let service =
            services.entry(service).or_insert_with(|| Service { methods: HashMap::new(), streams: HashMap::new() });
        if unary {
            service.methods.insert(method, Box::new(queue));
        } else {
            service.streams.insert(method, Arc::new(queue));
        }
    }
    let mut server = Server::new().bind(address)?.register_service(services);
    server.start().await?;
    println!("ready");
    std::future::pending::<()>().await;
    Ok(())
}

/// Makes all calls of a method one after the other, and those of several methods at once.
async fn make_calls(address: &str, plan: Vec<Call>) -> Result<(), Failure> {
    let client = Client::connect(address)?;
    let mut lane: HashMap<(String, String), usize> = HashMap::new();
    let mut queues: Vec<Vec<Call>> = vec![Vec::new(); LANES];
    for call in plan {
        let next = lane.len() % LANES;
        queues[*lane.entry((call.service.clone(), call.method.clone())).or_insert(next)].push(call);
    }
    let lanes: Vec<_> = queues
        .into_iter()
        .map(|queue| {
            let client = client.clone();
            tokio::spawn(async move {
                for call in queue {
                    let name = format!("{}/{}", call.service, call.method);
                    make_call(&client, call).await.map_err(|error| format!("{name}: {error}"))?;
                }
                Ok::<(), String>(())
            })
        })
        .collect();
    for each in lanes {
        each.await??;
    }
    Ok(())
}

async fn make_call(client: &Client, planned: Call) -> Result<(), Failure> {
    let mut request = Request::new();
    request.set_service(planned.service.clone());
    request.set_method(planned.method.clone());
    if planned.kind == "unary" || !planned.asks() {
        request.payload = planned.requests[0].clone();
    }
    if planned.kind == "unary" {
        return match client.request(request).await {
            Ok(response) if planned.code == Code::OK => Ok(same(&response.payload, &planned.responses[0])?),
            Ok(_) => Err("answered with OK".into()),
            Err(error) => planned.ended(error),
        };
    }
    let mut stream = client.new_stream(request, planned.asks(), planned.answers()).await?;
    for i in 0..planned.requests.len().max(planned.responses.len()) {
        if let (Some(request), true) = (planned.requests.get(i), planned.asks()) {
            stream.send(request.clone()).await?;
        }
        if let (Some(wanted), true) = (planned.responses.get(i), planned.answers()) {
            same(&stream.recv().await?, wanted)?;
        }
    }
    if planned.asks() {
        stream.close_send().await?;
    }
    match stream.recv().await {
        Ok(response) if planned.code == Code::OK && !planned.answers() => Ok(same(&response, &planned.responses[0])?),
        Ok(_) => Err("more responses than planned".into()),
        Err(error) => planned.ended(error),
    }
}

fn read_plan(path: &str) -> Result<Vec<Call>, Failure> {
    let text = std::fs::read_to_string(path)?;
    text.lines()
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [service, method, kind, code, requests, responses] = words[..] else {
                return Err(format!("not a call: {line:?}").into());
            };
            Ok(Call {
                service: service.into(),
                method: method.into(),
                kind: kind.into(),
                code: Code::from_i32(code.parse()?).ok_or("no such status")?,
                requests: messages(requests)?,
                responses: messages(responses)?,
            })
        })
        .collect()
}

fn messages(word: &str) -> Result<Vec<Vec<u8>>, Failure> {
    if word == "." {
        return Ok(Vec::new());
    }
    word.split(',').map(|text| bytes(text.trim_start_matches('-'))).collect()
}

fn bytes(hex: &str) -> Result<Vec<u8>, Failure> {
    (0..hex.len()).step_by(2).map(|at| Ok(u8::from_str_radix(&hex[at..at + 2], 16)?)).collect()
}

fn main() -> Result<(), Failure> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [role, socket, plan] = &words[..] else {
        return Err("usage: peer serve|call SOCKET PLAN".into());
    };
    let address = format!("unix://{socket}");
    let plan = read_plan(plan)?;
    // One thread: the client numbers a stream before it queues its request, and the wire should see them in order.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match role.as_str() {
        "serve" => runtime.block_on(serve(&address, plan)),
        "call" => runtime.block_on(make_calls(&address, plan)),
        other => Err(format!("no such role: {other}").into()),
    }
}
