//! The template with parameters filled in: what CloudFormation would make of it, as far as the tests need that.
//!
//! Promises that a name which is neither parameter, pseudo parameter nor resource is an error, and so is a reference to
//! a resource that is not made. `GetAtt` and `Ref` of a resource are told as text, such as `MainQueue.Arn`.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::yaml;

pub struct Template {
    pub text: Value,
    parameters: BTreeMap<String, Value>,
}

impl Template {
    /// With defaults, and these instead or in addition.
    pub fn with(chosen: &[(&str, &str)]) -> Self {
        let text = yaml::read(include_str!("../../deploy/stack.yaml"));
        let mut parameters = BTreeMap::new();
        for (name, parameter) in text["Parameters"].as_object().unwrap() {
            let given = chosen.iter().find(|(other, _)| other == name).map(|(_, value)| Value::from(*value));
            let value = given.or_else(|| parameter.get("Default").cloned());
            let list = parameter["Type"] == "CommaDelimitedList";
            let value = value.unwrap_or_else(|| name.to_lowercase().into());
            let split = |text: &Value| text.as_str().unwrap().split(',').map(Value::from).collect();
            parameters.insert(name.clone(), if list { split(&value) } else { value });
        }
        for (name, value) in [("AWS::Region", "eu-central-1"), ("AWS::AccountId", "111122223333")] {
            parameters
                .insert(name.into(), chosen.iter().find(|(other, _)| *other == name).map_or(value, |(_, v)| v).into());
        }
        assert!(chosen.iter().all(|(name, _)| parameters.contains_key(*name)), "{chosen:?}");
        Self { text, parameters }
    }

    fn holds(&self, condition: &Value) -> bool {
        if let Some(name) = condition.as_str() {
            let condition = &self.text["Conditions"][name];
            assert!(condition.is_object(), "no condition {name}");
            return self.holds(condition);
        }
        if let Some(negated) = condition.get("Fn::Not") {
            return !self.holds(&negated[0]);
        }
        let two = condition["Fn::Equals"].as_array().unwrap_or_else(|| panic!("{condition}"));
        self.resolved(&two[0]) == self.resolved(&two[1])
    }

    /// Logical name → resource, of those that are made; everything resolved.
    pub fn resources(&self) -> BTreeMap<String, Value> {
        let all = self.text["Resources"].as_object().unwrap();
        all.iter()
            .filter(|(_, resource)| resource.get("Condition").is_none_or(|condition| self.holds(condition)))
            .map(|(name, resource)| (name.clone(), self.resolved(resource).unwrap()))
            .collect()
    }

    /// A resource's properties.
    pub fn properties(&self, name: &str) -> Value {
        self.resources().remove(name).unwrap_or_else(|| panic!("{name} is not made"))["Properties"].clone()
    }

    /// Properties of all resources of a type, by logical name.
    pub fn of_type(&self, kind: &str) -> BTreeMap<String, Value> {
        let found = self.resources().into_iter().filter(|(_, resource)| resource["Type"] == kind);
        found.map(|(name, resource)| (name, resource["Properties"].clone())).collect()
    }

    /// `None`: there is no value (`AWS::NoValue`).
    pub fn resolved(&self, value: &Value) -> Option<Value> {
        Some(match value {
            Value::Array(items) => items.iter().filter_map(|item| self.resolved(item)).collect(),
            Value::Object(map) => match map.iter().next() {
                Some((name, given)) if map.len() == 1 && (name == "Ref" || name.starts_with("Fn::")) => {
                    return self.function(name, given);
                }
                _ => {
                    let some = map.iter().filter_map(|(name, value)| Some((name.clone(), self.resolved(value)?)));
                    some.collect::<Map<_, _>>().into()
                }
            },
            plain => plain.clone(),
        })
    }

    fn function(&self, name: &str, given: &Value) -> Option<Value> {
        match name {
            "Ref" if given == "AWS::NoValue" => None,
            "Ref" | "Fn::GetAtt" => Some(self.named(given.as_str().unwrap())),
            "Fn::If" => {
                let branch = if self.holds(&given[0]) { 1 } else { 2 };
                self.resolved(&given[branch])
            }
            "Fn::Base64" => self.resolved(given),
            "Fn::Sub" => {
                let (text, own) = match given {
                    Value::Array(two) => (&two[0], self.resolved(&two[1]).unwrap()),
                    text => (text, Value::Null),
                };
                let (mut said, mut rest) = (String::new(), text.as_str().unwrap());
                while let Some((before, after)) = rest.split_once("${") {
                    let (name, after) = after.split_once('}').unwrap();
                    let value = own.get(name).cloned().unwrap_or_else(|| self.named(name));
                    said += before;
                    said += &value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                    rest = after;
                }
                Some((said + rest).into())
            }
            other => panic!("{other} is not known to these tests"),
        }
    }

    /// A parameter's value, or a resource's name and attribute as they are written.
    fn named(&self, name: &str) -> Value {
        if let Some(value) = self.parameters.get(name) {
            return value.clone();
        }
        let resource = name.split('.').next().unwrap();
        let resource = &self.text["Resources"][resource];
        assert!(resource.is_object(), "{name} is neither a parameter nor a resource");
        assert!(resource.get("Condition").is_none_or(|condition| self.holds(condition)), "{name} is not made");
        name.into()
    }
}
