"""A few S3, SQS and CloudFormation calls to LocalStack in plain HTTP, so that nothing has to be installed for them.

LocalStack checks no signature; the Authorization header only names the service. For this stack only: it knows no
real AWS. Keys are literal text here and percent-encoded on the wire, all of them the same way.
"""
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
import xml.etree.ElementTree as ElementTree

_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_SCOPE = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/{}/aws4_request, SignedHeaders=host, Signature=0"


class Refused(Exception):
    """The service answered with an error."""

    def __init__(self, status, text):
        super().__init__(f"{f'HTTP {status}' if isinstance(status, int) else status}: {text[:400]}")
        self.status = status


def http(method, url, body=None, headers=None, timeout=30):
    request = urllib.request.Request(url, data=body, method=method, headers=headers or {})
    try:
        with _OPENER.open(request, timeout=timeout) as reply:
            return reply.read()
    except urllib.error.HTTPError as error:
        raise Refused(error.code, error.read().decode(errors="replace")) from None


class S3:
    def __init__(self, endpoint=None):
        self.endpoint = endpoint or os.environ["AWS_ENDPOINT_URL"]

    def _call(self, method, bucket, key="", query="", body=None):
        path = "/".join(["", bucket] + ([urllib.parse.quote(key)] if key else []))
        headers = {"Authorization": _SCOPE.format("s3"), "Content-Type": "application/octet-stream"}
        return http(method, self.endpoint + path + query, body, headers)

    def make_bucket(self, bucket):
        self._call("PUT", bucket)

    def put(self, bucket, key, body):
        self._call("PUT", bucket, key, body=body)

    def get(self, bucket, key):
        return self._call("GET", bucket, key)

    def list(self, bucket, prefix=""):
        """Keys under a prefix (the first thousand: the demo has less)."""
        query = "?" + urllib.parse.urlencode({"list-type": 2, "encoding-type": "url", "prefix": prefix})
        root = ElementTree.fromstring(self._call("GET", bucket, query=query))
        return [urllib.parse.unquote_plus(node.text) for node in root.iter() if node.tag.rsplit("}")[-1] == "Key"]


class Sqs:
    def __init__(self, endpoint=None):
        self.endpoint = endpoint or os.environ["AWS_ENDPOINT_URL"]

    def _call(self, action, **fields):
        headers = {"Authorization": _SCOPE.format("sqs"), "Content-Type": "application/x-amz-json-1.0",
                   "X-Amz-Target": f"AmazonSQS.{action}"}
        return json.loads(http("POST", self.endpoint + "/", json.dumps(fields).encode(), headers) or b"{}")

    def make_queue(self, name, **attributes):
        return self._call("CreateQueue", QueueName=name, Attributes=attributes)["QueueUrl"]

    def attributes(self, url, *names):
        return self._call("GetQueueAttributes", QueueUrl=url, AttributeNames=list(names or ["All"]))["Attributes"]

    def arn(self, url):
        return self.attributes(url, "QueueArn")["QueueArn"]

    def send(self, url, body):
        return self._call("SendMessage", QueueUrl=url, MessageBody=body)["MessageId"]

    def depth(self, url):
        """Messages visible, in flight and delayed."""
        names = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible",
                 "ApproximateNumberOfMessagesDelayed")
        found = self.attributes(url, *names)
        return tuple(int(found[name]) for name in names)

    def receive_and_return(self, url, number):
        """Looks at up to ten messages: receives them and makes them visible again at once."""
        found = self._call("ReceiveMessage", QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=5,
                           VisibilityTimeout=30, MessageAttributeNames=["All"]).get("Messages", [])
        while len(found) < number:
            more = self._call("ReceiveMessage", QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=1,
                              VisibilityTimeout=30, MessageAttributeNames=["All"]).get("Messages", [])
            if not more:
                break
            found += more
        for message in found:
            self._call("ChangeMessageVisibility", QueueUrl=url, ReceiptHandle=message["ReceiptHandle"],
                       VisibilityTimeout=0)
        return found


class CloudFormation:
    def __init__(self, endpoint=None):
        self.endpoint = endpoint or os.environ["AWS_ENDPOINT_URL"]

    def _call(self, action, **fields):
        """Its answer, without namespaces."""
        headers = {"Authorization": _SCOPE.format("cloudformation"), "Content-Type": "application/x-www-form-urlencoded"}
        body = urllib.parse.urlencode({"Action": action, "Version": "2010-05-15", **fields}).encode()
        root = ElementTree.fromstring(http("POST", self.endpoint + "/", body, headers))
        for node in root.iter():
            node.tag = node.tag.rsplit("}")[-1]
        return root

    def deploy(self, stack, template_url, parameters, deadline=60.0):
        """Creates a stack and waits for it; its outputs."""
        fields = {"StackName": stack, "TemplateURL": template_url, "Capabilities.member.1": "CAPABILITY_NAMED_IAM"}
        for number, (name, value) in enumerate(parameters.items(), 1):
            fields |= {f"Parameters.member.{number}.ParameterKey": name,
                       f"Parameters.member.{number}.ParameterValue": value}
        self._call("CreateStack", **fields)
        end = time.monotonic() + deadline
        while True:
            found = self._call("DescribeStacks", StackName=stack).find(".//Stacks/member")
            status = found.findtext("StackStatus")
            if status == "CREATE_COMPLETE":
                return {one.findtext("OutputKey"): one.findtext("OutputValue") for one in found.iter("member")
                        if one.find("OutputKey") is not None}
            if status != "CREATE_IN_PROGRESS" or time.monotonic() > end:
                raise Refused(status, self._why(stack) or f"the stack {stack} is not complete")
            time.sleep(0.05)

    def _why(self, stack):
        """What failed, and its reason."""
        events = self._call("DescribeStackEvents", StackName=stack).iter("member")
        return "; ".join(f"{event.findtext('LogicalResourceId')}: {event.findtext('ResourceStatusReason')}"
                         for event in events if (event.findtext("ResourceStatus") or "").endswith("_FAILED"))
