//! The `/try` page in a real Chromium, driven over WebDriver. Skipped, and said so, without one.

use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use super::http::send;
use super::world;

const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

struct Browser {
    driver: Child,
    session: String,
}

impl Browser {
    async fn start() -> Option<Self> {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .ok()?;
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = loop {
            let line = tokio::time::timeout(Duration::from_secs(20), lines.next_line()).await;
            let line = line.expect("chromedriver says nothing").unwrap()?;
            if let Some((_, port)) = line.split_once("started successfully on port ") {
                break port.trim_end_matches('.').to_owned();
            }
        };
        let args = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            "--window-size=900,900",
        ];
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome", "goog:chromeOptions": {"args": args},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }}});
        let url = format!("http://127.0.0.1:{port}/session");
        let answer = send("POST", &url, &[], wanted.to_string()).await;
        let session = answer.json()["value"]["sessionId"].as_str().map(str::to_owned);
        let session = session.unwrap_or_else(|| panic!("no session: {}", answer.text()));
        Some(Self { driver, session: format!("{url}/{session}") })
    }

    async fn call(&self, method: &str, path: &str, body: Value) -> Value {
        let body = if method == "GET" { String::new() } else { body.to_string() };
        let answer = send(method, &format!("{}{path}", self.session), &[], body).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.json()["value"].take()
    }

    async fn open(&self, url: &str) {
        self.call("POST", "/url", json!({"url": url})).await;
    }

    async fn find(&self, css: &str) -> String {
        let found =
            self.call("POST", "/element", json!({"using": "css selector", "value": css})).await;
        found[ELEMENT].as_str().unwrap().to_owned()
    }

    async fn click(&self, css: &str) {
        let element = self.find(css).await;
        self.call("POST", &format!("/element/{element}/click"), json!({})).await;
    }

    async fn type_into(&self, css: &str, text: &str) {
        let element = self.find(css).await;
        self.call("POST", &format!("/element/{element}/value"), json!({"text": text})).await;
    }

    async fn eval(&self, script: &str) -> Value {
        self.call("POST", "/execute/sync", json!({"script": script, "args": []})).await
    }

    async fn until(&self, script: &str) {
        for _ in 0..100 {
            if self.eval(&format!("return Boolean({script})")).await == true {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!(
            "never came true: {script}; page: {}",
            self.eval("return document.body.innerText").await
        );
    }

    async fn screenshot(&self, name: &str) {
        let picture = self.call("GET", "/screenshot", Value::Null).await;
        let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
        let file = folder.join(format!("{name}.png"));
        std::fs::write(&file, STANDARD.decode(picture.as_str().unwrap()).unwrap()).unwrap();
        println!("screenshot: {}", file.display());
    }

    async fn scheme(&self, scheme: &str) {
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        let command = json!({
            "cmd": "Emulation.setEmulatedMedia", "params": {"features": features},
        });
        self.call("POST", "/goog/cdp/execute", command).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_logs_in_drops_a_file_and_sees_it_stored() {
    let Some(mut browser) = Browser::start().await else {
        println!("SKIPPED: there is no chromedriver");
        return;
    };
    let world = world().await;
    browser.open(&world.door.try_url).await;
    assert_eq!(browser.eval("return document.getElementById('files').disabled").await, true);
    browser.screenshot("try-1-signed-out").await;

    browser.click("#session").await;
    browser.until("location.pathname === '/login'").await;
    browser.until("document.activeElement.id === 'username'").await;
    browser.type_into("#username", "dev").await;
    browser.type_into("#password", "wrong").await;
    browser.click("button").await;
    browser.until("document.querySelector('[role=alert]')").await;
    browser.screenshot("try-2-login-failed").await;
    browser.type_into("#password", "catchment").await;
    browser.click("button").await;
    browser
        .until("document.getElementById('who')?.textContent.startsWith('Signed in as dev@')")
        .await;
    assert_eq!(browser.eval("return location.search").await, "", "the code left the address");

    let file = tempfile::Builder::new().suffix(".csv").tempfile().unwrap();
    std::fs::write(file.path(), "a,b\n1,2\n").unwrap();
    browser.type_into("#files", file.path().to_str().unwrap()).await;
    browser.until("document.querySelector('li[data-state=accepted]')").await;
    browser.screenshot("try-3-accepted").await;
    world.stub.store_all();
    browser.until("document.querySelector('li[data-state=stored]')").await;
    assert_eq!(world.stub.events()[0].body, b"a,b\n1,2\n");
    assert!(world.stub.events()[0].file_key.as_str().ends_with(".csv"));

    // Dropped, not chosen; empty, so refused.
    browser
        .eval(
            "const data = new DataTransfer(); data.items.add(new File([], 'empty.txt'));\
             document.getElementById('drop').dispatchEvent(new DragEvent('drop', {dataTransfer: data, bubbles: true}))",
        )
        .await;
    browser.until("document.querySelector('li[data-state=failed]')").await;
    browser.screenshot("try-4-light").await;
    browser.scheme("dark").await;
    browser.screenshot("try-5-dark").await;
    for (width, height) in [(320, 640), (900, 900)] {
        let metrics = json!({"cmd": "Emulation.setDeviceMetricsOverride", "params": {
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false,
        }});
        browser.call("POST", "/goog/cdp/execute", metrics).await;
        let fits = "document.documentElement.scrollWidth <= innerWidth";
        assert_eq!(browser.eval(&format!("return {fits}")).await, true, "at {width} px");
    }

    let unlabelled = browser
        .eval("return [...document.querySelectorAll('input,button')].filter(e => !(e.labels?.length || e.textContent.trim())).length")
        .await;
    assert_eq!(unlabelled, 0, "every control has a name");
    let log = browser.call("POST", "/se/log", json!({"type": "browser"})).await;
    // Waiting for the file answers 404 until it is stored, and the two refusals are wanted.
    let wanted =
        |m: &str| ["404", "400", "401"].iter().any(|s| m.contains(&format!("status of {s}")));
    let surprises: Vec<_> = log
        .as_array()
        .unwrap()
        .iter()
        .filter(|entry| !wanted(entry["message"].as_str().unwrap()))
        .collect();
    assert!(surprises.is_empty(), "{surprises:?}");
    let traffic = browser.call("POST", "/se/log", json!({"type": "performance"})).await;
    for entry in traffic.as_array().unwrap() {
        let message: Value = serde_json::from_str(entry["message"].as_str().unwrap()).unwrap();
        if message["message"]["method"] == "Network.requestWillBeSent" {
            let url = message["message"]["params"]["request"]["url"].as_str().unwrap().to_owned();
            assert!(url.starts_with("http://127.0.0.1:") || url.starts_with("data:"), "{url}");
        }
    }
    send("DELETE", &browser.session, &[], "").await;
    browser.driver.start_kill().unwrap();
}
