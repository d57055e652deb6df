-- "airflow" is made by the image itself.
CREATE DATABASE mlflow;
CREATE DATABASE lfm;
