// Reads objects of KEDA and of the Prometheus operator from standard input and prints what their schemas have against
// them, as a list of sentences. Runs in the folder in which npm installed the models: node --input-type=module -e THIS.
import { readFileSync } from "node:fs";
import { ScaledObject } from "@kubernetes-models/keda/keda.sh/v1alpha1/ScaledObject";
import { TriggerAuthentication } from "@kubernetes-models/keda/keda.sh/v1alpha1/TriggerAuthentication";
import { PodMonitor } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PodMonitor";

const models = {
  "keda.sh/v1alpha1/ScaledObject": ScaledObject,
  "keda.sh/v1alpha1/TriggerAuthentication": TriggerAuthentication,
  "monitoring.coreos.com/v1/PodMonitor": PodMonitor,
};
const found = [];
for (const object of JSON.parse(readFileSync(0, "utf8"))) {
  const kind = `${object.apiVersion}/${object.kind}`;
  if (!models[kind]) {
    found.push(`${kind}: no model`);
    continue;
  }
  try {
    new models[kind](object).validate();
  } catch (error) {
    found.push(`${kind}: ${error.message}`);
  }
}
console.log(JSON.stringify(found));
