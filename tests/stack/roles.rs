//! The roles: what is in the template is what is in deploy/iam-*.json, and nothing wider.

use serde_json::Value;

use crate::template::Template;

const FILES: [(&str, &str); 6] = [
    ("WorkerRole", include_str!("../../deploy/iam-worker-policy.json")),
    ("RedrivePolicy", include_str!("../../deploy/iam-redrive-policy.json")),
    ("UpkeepPolicy", include_str!("../../deploy/iam-upkeep-policy.json")),
    ("TracePolicy", include_str!("../../deploy/iam-trace-policy.json")),
    ("ArchivePolicy", include_str!("../../deploy/iam-archive-policy.json")),
    ("OperatorPolicy", include_str!("../../deploy/iam-operator-policy.json")),
];

/// A parameter of the template, and the placeholder of the policy files that it stands for.
const NAMES: [(&str, &str); 9] = [
    ("Name", "MAIN_QUEUE"),
    ("SourceBucket", "SOURCE_BUCKET"),
    ("SourcePrefix", "SOURCE_PREFIX"),
    ("ResultsBucket", "RESULTS_BUCKET"),
    ("Namespace", "NAMESPACE"),
    ("SearchDomain", "DOMAIN"),
    ("SearchIndex", "INDEX"),
    ("KmsKeyId", "KMS_KEY"),
    ("AWS::AccountId", "ACCOUNT"),
];

/// The worker's policy or one of redrive's.
fn policy(template: &Template, name: &str) -> Value {
    let properties = template.properties(name);
    match properties["Policies"].as_array() {
        Some(inline) => inline.iter().find(|one| one["PolicyName"] == "worker").unwrap()["PolicyDocument"].clone(),
        None => properties["PolicyDocument"].clone(),
    }
}

fn texts(value: &Value) -> Vec<&str> {
    value
        .as_array()
        .map_or_else(|| value.as_str().into_iter().collect(), |some| some.iter().filter_map(Value::as_str).collect())
}

/// Who, and what is said: every statement of every identity in the template, trust aside.
fn statements(template: &Template) -> Vec<(String, Value)> {
    let roles = template.of_type("AWS::IAM::Role").into_iter().flat_map(|(name, role)| {
        let inline = role["Policies"].as_array().unwrap().clone();
        inline.into_iter().map(move |policy| (name.clone(), policy["PolicyDocument"].clone()))
    });
    let managed = template.of_type("AWS::IAM::ManagedPolicy").into_iter();
    let documents = roles.chain(managed.map(|(name, policy)| (name, policy["PolicyDocument"].clone())));
    documents
        .flat_map(|(name, document)| {
            let statements = document["Statement"].as_array().unwrap().clone();
            statements.into_iter().map(move |statement| (name.clone(), statement))
        })
        .collect()
}

#[test]
fn the_policies_are_those_beside_the_template() {
    let names: Vec<(&str, String)> =
        NAMES.iter().map(|(parameter, placeholder)| (*parameter, format!("<{placeholder}>"))).collect();
    let mut chosen: Vec<(&str, &str)> = names.iter().map(|(name, value)| (*name, value.as_str())).collect();
    chosen.push(("AWS::Region", "<REGION>"));
    let template = Template::with(&chosen);
    for (name, file) in FILES {
        let mut file = file.replace("${DEAD_LETTER_QUEUE}", "<MAIN_QUEUE>-dlq");
        for placeholder in NAMES.iter().map(|(_, placeholder)| *placeholder).chain(["REGION"]) {
            file = file.replace(&format!("${{{placeholder}}}"), &format!("<{placeholder}>"));
        }
        assert_eq!(policy(&template, name), serde_json::from_str::<Value>(&file).unwrap(), "{name}");
    }
}

#[test]
fn without_a_domain_and_a_key_nobody_is_allowed_anything_on_either() {
    for (name, statement) in statements(&Template::with(&[])) {
        let services = texts(&statement["Action"]).into_iter().map(|action| action.split_once(':').unwrap().0);
        let odd = services.filter(|service| statement["Effect"] == "Allow" && ["es", "kms"].contains(service)).count();
        assert_eq!(odd, 0, "{name}: {statement}");
    }
}

#[test]
fn no_role_may_purge_or_touch_a_source_file_and_no_action_is_a_wildcard() {
    let chosen = [("SourceBucket", "incoming"), ("SearchDomain", "search"), ("KmsKeyId", "k")];
    let all = statements(&Template::with(&chosen));
    assert!(all.len() > 40, "{}", all.len());
    for (name, statement) in all.iter().filter(|(_, statement)| statement["Effect"] == "Allow") {
        assert!(statement.get("NotAction").is_none() && statement.get("NotResource").is_none(), "{name}: {statement}");
        let resources = texts(&statement["Resource"]);
        assert!(!resources.is_empty() && !resources.contains(&"*"), "{name}: {statement}");
        for action in texts(&statement["Action"]) {
            assert!(!action.contains('*'), "{name}: {action}");
            let purges = ["sqs:PurgeQueue", "sqs:DeleteQueue", "sqs:SetQueueAttributes", "s3:DeleteObjectVersion"];
            assert!(!purges.contains(&action), "{name}: {action}");
            let reads = action.starts_with("s3:Get") || action == "s3:ListBucket";
            assert!(reads || !resources.iter().any(|on| on.contains(":::incoming")), "{name}: {action}");
        }
    }
    // And what somebody may attach later does not help either.
    for role in ["WorkerRole", "RedriveRole"] {
        let denied = |action: &str| {
            let said = |(name, statement): &&(String, Value)| {
                name == role && statement["Effect"] == "Deny" && texts(&statement["Action"]).contains(&action)
            };
            all.iter().filter(said).count()
        };
        for action in ["sqs:PurgeQueue", "sqs:DeleteQueue", "s3:DeleteObjectVersion", "s3:DeleteObject"] {
            assert_eq!(denied(action), 1, "{role}: {action}");
        }
    }
}

#[test]
fn redrive_is_assumed_from_the_workers_role_and_by_nobody_else() {
    let template = Template::with(&[]);
    let trust = |role: &str| template.properties(role)["AssumeRolePolicyDocument"]["Statement"].clone();
    let of = |role: &str, who: &str| {
        let statement = trust(role);
        assert_eq!(statement.as_array().unwrap().len(), 1, "{statement}");
        statement[0]["Principal"][who].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!(of("WorkerRole", "Service"), "ec2.amazonaws.com");
    assert_eq!(of("RedriveRole", "AWS"), "WorkerRole.Arn");
    let all = statements(&template);
    let assumes = |(_, statement): &&(String, Value)| texts(&statement["Action"]).contains(&"sts:AssumeRole");
    let assuming: Vec<_> = all.iter().filter(assumes).map(|(name, one)| (name.as_str(), &one["Resource"])).collect();
    let role = "arn:aws:iam::111122223333:role/quittance-redrive";
    assert_eq!(assuming, [("WorkerRole", &Value::from(role))]);
    assert_eq!(template.properties("RedriveRole")["RoleName"], "quittance-redrive");
    // The profile that is shipped names this role, and the output is what is filled in.
    let profile = include_str!("../../deploy/aws-config");
    assert!(profile.contains(&format!("role_arn = {}", role.replace("111122223333", "ACCOUNT"))), "{profile}");
    assert_eq!(template.text["Outputs"]["RedriveRoleArn"]["Value"]["Fn::GetAtt"], "RedriveRole.Arn");
}

#[test]
fn the_policies_fit_into_what_iam_takes_with_the_longest_names() {
    // IAM quotas, blanks not counted: 10,240 characters of all inline policies of a role, 6,144 of a managed policy.
    let [bucket, prefix, name] = [63, 64, 32].map(|length| "x".repeat(length));
    let chosen: Vec<(&str, &str)> = NAMES
        .map(|(parameter, _)| match parameter {
            "SourceBucket" | "ResultsBucket" | "SourcePrefix" => {
                (parameter, if parameter == "SourcePrefix" { prefix.as_str() } else { bucket.as_str() })
            }
            "AWS::AccountId" => (parameter, "111122223333"),
            other => (other, name.as_str()),
        })
        .into();
    let template = Template::with(&chosen);
    let length = |policy: &Value| policy["PolicyDocument"].to_string().chars().filter(|c| !c.is_whitespace()).count();
    for (name, role) in template.of_type("AWS::IAM::Role") {
        let inline: usize = role["Policies"].as_array().unwrap().iter().map(length).sum();
        assert!(inline < 10_240, "{name}: {inline}");
    }
    for (name, policy) in template.of_type("AWS::IAM::ManagedPolicy") {
        assert!(length(&policy) < 6_144, "{name}: {}", length(&policy));
    }
}
