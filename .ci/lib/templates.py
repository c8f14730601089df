"""The templates in ecs/, read and resolved without AWS, and the parameters the checks create them with."""
import json
import re

from lib.checks import ROOT
from lib.ministack import REGION

ACCOUNT = "000000000000"


def load(name):
    """A template, with short intrinsic functions in their long form."""
    import yaml
    class Loader(yaml.SafeLoader):
        pass

    def intrinsic(loader, suffix, node):
        kind = {yaml.ScalarNode: loader.construct_scalar, yaml.SequenceNode: loader.construct_sequence,
                yaml.MappingNode: loader.construct_mapping}[type(node)]
        value = kind(node) if isinstance(node, yaml.ScalarNode) else kind(node, deep=True)
        if suffix == "GetAtt" and isinstance(value, str):
            value = value.split(".", 1)
        return {suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}": value}

    Loader.add_multi_constructor("!", intrinsic)
    return yaml.load((ROOT / "ecs" / f"{name}.yaml").read_text(), Loader)


class Resolved:
    """A template with values for its parameters: conditions decided, references filled in."""

    def __init__(self, template, **values):
        self.template = template
        self.values = {"AWS::Partition": "aws", "AWS::Region": REGION, "AWS::AccountId": ACCOUNT,
                       "AWS::StackName": "stack", "AWS::NoValue": None}
        for name, parameter in template["Parameters"].items():
            self.values[name] = values.get(name, parameter.get("Default", f"<{name}>"))

    def resource(self, name):
        return self.value(self.template["Resources"][name]["Properties"])

    def condition(self, name):
        return self.value(self.template["Conditions"][name])

    def attribute(self, name, attribute):
        kind, given = self.template["Resources"][name]["Type"], None
        if attribute == "Arn":
            given = {"AWS::Kinesis::Stream": lambda: f"arn:aws:kinesis:{REGION}:{ACCOUNT}:stream/{self.values['Name']}",
                     "AWS::S3::Bucket": lambda: f"arn:aws:s3:::{self.values['BucketName']}"}.get(kind)
        return given() if given else f"<{name}.{attribute}>"

    def value(self, node):
        if isinstance(node, list):
            found = [self.value(one) for one in node]
            return [one for one in found if one is not None]
        if not isinstance(node, dict):
            return node
        if len(node) != 1 or not (set(node) <= {"Ref", "Condition"} or next(iter(node)).startswith("Fn::")):
            found = {key: self.value(one) for key, one in node.items()}
            return {key: one for key, one in found.items() if one is not None}
        (function, argument), = node.items()
        if function == "Ref":
            return self.values[argument] if argument in self.values else f"<{argument}>"
        if function == "Condition":
            return self.condition(argument) if isinstance(argument, str) else self.value(argument)
        if function == "Fn::GetAtt":
            return self.attribute(*argument)
        if function == "Fn::If":
            return self.value(argument[1] if self.condition(argument[0]) else argument[2])
        if function == "Fn::Sub":
            text, local = (argument, {}) if isinstance(argument, str) else argument
            local = {name: self.value(one) for name, one in local.items()}

            def fill(match):
                name = match[1]
                if name in local:
                    return str(local[name])
                return str(self.attribute(*name.split(".", 1)) if "." in name
                           else self.value({"Ref": name}))
            return re.sub(r"\$\{([^!}][^}]*)\}", fill, text)
        values = [self.value(one) for one in argument] if isinstance(argument, list) else self.value(argument)
        if function == "Fn::Equals":
            return str(values[0]) == str(values[1])
        if function == "Fn::Not":
            return not values[0]
        if function == "Fn::And":
            return all(values)
        if function == "Fn::Split":
            return values[1].split(values[0])
        if function == "Fn::Select":
            return values[1][int(values[0])]
        if function == "Fn::Join":
            return values[0].join(values[1] if isinstance(values[1], list) else [values[1]])
        if function == "Fn::FindInMap":
            return self.template["Mappings"][values[0]][values[1]][values[2]]
        raise ValueError(f"{function} is not known here")


def parameters(**values):
    return [{"ParameterKey": name, "ParameterValue": value} for name, value in values.items()]


def platform_parameters(**more):
    return parameters(Name="clicks", BucketName="clicks-archive", CodeBucket="code", CodeKey="upload.zip",
                      DomainPrefix="clicks-login", Architecture="x86_64", **more)


def worker_body():
    """worker.yaml as JSON, without the types ministack does not know."""
    template = load("worker")
    left_out = [n for n, r in template["Resources"].items() if "AutoScaling" in r["Type"]]
    for name in left_out + ["ScaleOutAlarm"]:
        del template["Resources"][name]
    template.pop("Rules")
    # Its ECS counts with what it is given, and parameters are text to it.
    for provider in template["Resources"]["Service"]["Properties"]["CapacityProviderStrategy"]:
        provider.update({name: 1 for name in provider if name in ("Base", "Weight")})
    return json.dumps(template), left_out
