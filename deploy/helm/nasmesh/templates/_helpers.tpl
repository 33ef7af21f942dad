{{- define "nasmesh.name" -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "nasmesh.selector" -}}
app.kubernetes.io/name: nasmesh
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "nasmesh.labels" -}}
{{ include "nasmesh.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | quote }}
{{- end -}}

{{- define "nasmesh.image" -}}
{{ .root.Values.image.repository }}-{{ .variant }}:{{ .root.Values.image.tag | default .root.Chart.AppVersion }}
{{- end -}}

{{/* How many schedulers: one on a disk, several on a database. */}}
{{- define "nasmesh.schedulers" -}}
{{- if .Values.scheduler.postgres.url }}{{ .Values.scheduler.postgres.replicas }}{{ else }}1{{ end -}}
{{- end -}}

{{/* Every scheduler by its own name: whoever calls goes on to the one that leads. */}}
{{- define "nasmesh.addresses" -}}
{{- $name := include "nasmesh.name" . -}}
{{- $all := list -}}
{{- range $i := until (int (include "nasmesh.schedulers" .)) -}}
{{- $all = append $all (printf "%s-scheduler-%d.%s-scheduler:7400" $name $i $name) -}}
{{- end -}}
{{- join "," $all -}}
{{- end -}}

{{/* A pod's security: no root, no capability, no file of its image that it could change, no token of the cluster. */}}
{{- define "nasmesh.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "nasmesh.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* Kubernetes would otherwise set NASMESH_… variables for every Service, which the programs refuse as misspelt. */}}
{{- define "nasmesh.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.image.pullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The rule that lets members of one training reach each other: where they meet, and the port that torch then chooses. */}}
{{- define "nasmesh.gangs" -}}
{{- $any := false -}}
{{- range $given := .root.Values.servers -}}
{{- if (get $given "gangPort") }}{{ $any = true }}{{ end -}}
{{- end -}}
{{- if or $any .root.Values.serverDefaults.gangPort }}
- {{ .to }}:
    - podSelector:
        matchLabels: {{- include "nasmesh.selector" .root | nindent 10 }}
          app.kubernetes.io/component: train
{{- end -}}
{{- end -}}
