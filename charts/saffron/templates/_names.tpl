{{/* Every object is named after the release; a second release in the same cluster needs another name. */}}
{{- define "saffron.name" -}}
{{ .Release.Name | trunc 40 | trimSuffix "-" }}-operator
{{- end }}

{{- define "saffron.selector" -}}
app.kubernetes.io/name: saffron-operator
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- define "saffron.labels" -}}
{{ include "saffron.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* The namespaces to serve, as JSON. */}}
{{- define "saffron.namespaces" -}}
{{ default (list .Release.Namespace) .Values.watchNamespaces | toJson }}
{{- end }}

{{/* The pods that quantize one candidate together: Kubernetes puts the index of an Indexed Job on each. */}}
{{- define "saffron.together" -}}
matchLabels:
  saffron.dev/stage: quantize
matchExpressions:
- key: batch.kubernetes.io/job-completion-index
  operator: Exists
{{- end }}
