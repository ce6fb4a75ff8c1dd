//! An OpenSearch of the test's own, which may be broken: `localstack/stack node`. Ends with its test.

use std::path::Path;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

pub struct OwnNode {
    _child: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    pub url: String,
}

impl OwnNode {
    /// Refuses requests longer than `max_content`, as OpenSearch writes it: `256kb`.
    pub async fn start(max_content: &str) -> Self {
        let stack = Path::new(env!("CARGO_MANIFEST_DIR")).join("localstack/stack");
        let mut command = Command::new(stack);
        command.args(["node", max_content]).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(false);
        let mut child = command.spawn().unwrap();
        let (orders, answers) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut node = Self { _child: child, orders, answers: BufReader::new(answers).lines(), url: String::new() };
        node.url = node.answer().await.strip_prefix("up ").expect("a node that is up").to_owned();
        node
    }

    async fn answer(&mut self) -> String {
        self.answers.next_line().await.unwrap().expect("an answer of the node's keeper, which has ended")
    }

    async fn order(&mut self, word: &str) -> String {
        self.orders.write_all(format!("{word}\n").as_bytes()).await.unwrap();
        self.answer().await
    }

    /// Stands still in the middle of whatever it does, and answers nothing.
    pub async fn freeze(&mut self) {
        assert_eq!(self.order("freeze").await, "frozen");
    }

    pub async fn thaw(&mut self) {
        assert_eq!(self.order("thaw").await, "thawed");
    }

    /// `kill -9`.
    pub async fn kill(&mut self) {
        assert_eq!(self.order("kill").await, "down");
    }

    /// On the same data and port.
    pub async fn start_again(&mut self) {
        let answer = self.order("start").await;
        assert_eq!(answer.strip_prefix("up "), Some(self.url.as_str()), "the same port");
    }
}
