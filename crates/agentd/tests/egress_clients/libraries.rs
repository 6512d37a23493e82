//! HTTP libraries of Python, Node and Java.

use crate::{
    outer::{PUBLIC, name, reached},
    place::EgressDir,
};
use std::fs;

pub const TESTS: &[(&str, fn(&str))] = &[
    ("python_requests_reaches_a_granted_name", requests),
    ("python_httpx_reaches_a_granted_name", httpx),
    ("python_asyncio_reaches_a_granted_name", asyncio),
    ("node_fetch_reaches_a_granted_name", fetch),
    ("java_http_client_reaches_a_granted_name", java),
];

/// Runs a command with a grant of the server, and asserts that the command printed the answer of the server.
fn reaches(place: &EgressDir, backend: &str, argv: &[&str]) {
    name("granted.example", &[PUBLIC]);
    let output = place.run(backend, &["--net", "allow=granted.example"], argv);
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim_end(), "tls /a", "{output:?}");
    assert_eq!(reached(), [format!("{PUBLIC}:443")]);
}

fn python(backend: &str, script: &str) {
    reaches(&EgressDir::new(), backend, &["/usr/bin/python3", "-c", script]);
}

fn requests(backend: &str) {
    python(backend, "import requests; print(requests.get('https://granted.example/a', verify='ca.pem', timeout=60).text)");
}

fn httpx(backend: &str) {
    python(backend, "import httpx; print(httpx.get('https://granted.example/a', verify='ca.pem', timeout=60).text)");
}

fn asyncio(backend: &str) {
    let script = r"
import asyncio, ssl
async def get():
    context = ssl.create_default_context(cafile='ca.pem')
    reader, writer = await asyncio.open_connection('granted.example', 443, ssl=context)
    writer.write(b'GET /a HTTP/1.1\r\nHost: granted.example\r\n\r\n')
    print((await reader.read()).decode().split('\r\n\r\n')[1])
asyncio.run(get())
";
    python(backend, script);
}

fn fetch(backend: &str) {
    let script = "fetch('https://granted.example/a').then(answer => answer.text()).then(console.log)";
    let argv = ["env", "NODE_EXTRA_CA_CERTS=ca.pem", "node", "-e", script];
    reaches(&EgressDir::new(), backend, &argv);
}

fn java(backend: &str) {
    let place = EgressDir::new();
    let source = r#"
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
class Fetch {
    public static void main(String[] args) throws Exception {
        HttpRequest request = HttpRequest.newBuilder(URI.create("https://granted.example/a")).build();
        System.out.println(HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString()).body());
    }
}
"#;
    fs::write(place.work().join("Fetch.java"), source).unwrap();
    let script =
        "keytool -importcert -noprompt -file ca.pem -keystore trust.p12 -storetype PKCS12 -storepass changeit 2>/dev/null
        exec java -Djavax.net.ssl.trustStore=trust.p12 -Djavax.net.ssl.trustStorePassword=changeit Fetch.java";
    reaches(&place, backend, &["sh", "-c", script]);
}
